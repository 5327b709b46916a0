"""The watches of one replica: which kinds there are to watch, found by discovery, and the watches anew where that changes.

Discovery takes no rights on the whole cluster, and an optional kind that is installed later is served without a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from dtesn_operator.client import Client
from dtesn_operator.errors import OperatorError
from dtesn_operator.handlers import OnEvent, watch
from dtesn_operator.kinds import DTESN_BATCHER, OWNED, Kind

log = logging.getLogger(__name__)

INTERVAL: Final = 30.0
RETRY: Final = 1.0


class Watches:
    """Watches until told to stop. `changed` is told the optional kinds that the API server has, at the start and whenever they change."""

    def __init__(
        self,
        client: Client,
        namespaces: Sequence[str],
        on_event: OnEvent,
        changed: Callable[[frozenset[Kind]], None],
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._client, self._namespaces = client, namespaces
        self._on_event, self._changed = on_event, changed
        self._interval = interval
        self._served: dict[Kind, bool] = {}
        self.begun = asyncio.Event()
        self.trouble = "the watches have not begun"

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set or a signal comes, which sets it."""
        while not stop.is_set():
            optional = await self._optional()
            self._changed(optional)
            self.trouble = ""
            again = asyncio.Event()
            watches = asyncio.ensure_future(watch(self._on_event, self._namespaces, optional, self.begun, again))
            ends = [asyncio.ensure_future(one) for one in (self._other_than(optional), stop.wait())]
            try:
                await asyncio.wait({watches, *ends}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if watches.done():
                    stop.set()  # a signal came, or it failed
                again.set()
                for one in ends:
                    one.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
                await watches

    async def _optional(self) -> frozenset[Kind]:
        """The optional kinds that there are, as soon as our own is there."""
        while True:
            try:
                if await self._client.serves(DTESN_BATCHER):
                    return await self._found()
                self.trouble = f"there is no {DTESN_BATCHER.kind} ({DTESN_BATCHER.api_version}); apply its CustomResourceDefinition"
            except OperatorError as error:
                self.trouble = str(error)
            log.warning("%s", self.trouble)
            await asyncio.sleep(RETRY)

    async def _other_than(self, known: frozenset[Kind]) -> None:
        """Come back when the optional kinds are others than these."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                if await self._found() != known:
                    log.info("the optional kinds of the API server have changed; the watches begin anew")
                    return
            except OperatorError as error:
                log.warning("discovery: %s", error)

    async def _found(self) -> frozenset[Kind]:
        """The optional kinds. One whose question fails keeps its last answer; raises where it has none."""
        failed: OperatorError | None = None
        for kind in (kind for kind in OWNED if kind.optional):
            try:
                self._served[kind] = await self._client.serves(kind)
            except OperatorError as error:
                failed = failed or (error if kind not in self._served else None)
        if failed is not None:
            raise failed
        return frozenset(kind for kind, served in self._served.items() if served)
