"""What the replica that leads does: workers on the queue, the resync, the rounds of the pods."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from dtesn_operator.client import Client
from dtesn_operator.errors import ApiFailed, OperatorError
from dtesn_operator.metrics import Metrics
from dtesn_operator.observing import Rounds
from dtesn_operator.reconcile import Next, Reconciler
from dtesn_operator.resync import Listing, forget_ghosts, listed, sidecarless, unseen
from dtesn_operator.store import Key
from dtesn_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

WORKERS: Final = 16
RESYNC_EVERY: Final = 300.0
INJECTED_EVERY: Final = 15.0
RETRY: Final = 2.0
CATCH_UP: Final = 5.0
LISTED_PAUSE: Final = 5.0  # until the watches of all kinds have listed


class Leader:
    """The leader's work. `stirred` is set by every event of the watches, `listed` where one has listed, `resync` asks for a resync now."""

    def __init__(self, client: Client, reconciler: Reconciler, queue: WorkQueue[Key], metrics: Metrics, namespaces: Sequence[str]) -> None:
        self._client, self._reconciler, self._queue = client, reconciler, queue
        self._store = reconciler.store
        self._metrics = metrics
        self._namespaces = namespaces
        self._rounds = Rounds(reconciler, queue.add, lambda: len(queue) > 0)
        self.stirred = asyncio.Event()
        self.listed = asyncio.Event()
        self.resync = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. What a former time as leader left behind is found out anew."""
        self._forget()
        try:
            await self._caught_up()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeated(self._resync, RESYNC_EVERY, self.resync))
                group.create_task(self._after_lists())
                group.create_task(self._repeated(self._injected, INJECTED_EVERY))
                group.create_task(self._rounds.run())
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            self._forget()

    def _forget(self) -> None:
        self._queue.clear()
        self._reconciler.memories.clear()

    async def _repeated(self, once: Callable[[], Awaitable[None]], seconds: float, wake: asyncio.Event | None = None) -> None:
        """Again and again: after so many seconds, or when woken, or soon where it failed."""
        wake = wake or asyncio.Event()
        while True:
            wake.clear()
            pause = seconds
            try:
                await once()
            except OperatorError as error:
                log.warning("%s: %s", once.__name__.strip("_"), error)
                pause = RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    async def _resync(self) -> None:
        for key in (*await self._ghosts(), *(key for key in self._store.resources() if not self._reconciler.in_order(key))):
            self._queue.add(key)

    async def _after_lists(self) -> None:
        """A watch that lists anew was away, and of what ended meanwhile it says nothing."""
        while True:
            await self.listed.wait()
            await asyncio.sleep(LISTED_PAUSE)
            self.listed.clear()
            try:
                for key in await self._ghosts():
                    self._queue.add(key)
            except OperatorError as error:
                log.warning("ghosts: %s", error)
                self.listed.set()

    async def _ghosts(self) -> list[Key]:
        """Forget what is gone without an event; the resources that this is about."""
        ghosts = forget_ghosts(self._store, await self._listed())
        if ghosts:
            self._metrics.ghosts.inc(len(ghosts))
            log.info("%d objects had gone without an event", len(ghosts))
        return ghosts

    async def _listed(self) -> Listing:
        return await listed(self._client, self._store, self._reconciler.cluster.available, self._namespaces)

    async def _caught_up(self) -> None:
        """Wait for the watches to bring what there is: a reconcile before would make what exists. What goes meanwhile never comes."""
        while True:
            try:
                listing = await self._listed()
                break
            except OperatorError as error:
                log.warning("listing: %s", error)
                await asyncio.sleep(RETRY)
        with suppress(TimeoutError):
            while unseen(self._store, listing):
                self.stirred.clear()
                async with asyncio.timeout(CATCH_UP):
                    await self.stirred.wait()

    async def _injected(self) -> None:
        """Tell the resources of pods that asked for a sidecar and run without."""
        found = await sidecarless(self._client, self._namespaces)
        for key in self._store.resources():
            memory = self._reconciler.memory(key)
            if memory is not None and memory.sidecarless != found.get(key, ()):
                memory.sidecarless = found.get(key, ())
                self._queue.add(key)

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            began = time.monotonic()
            try:
                following = await self._reconciler.reconcile(key)
            except OperatorError as error:
                log.warning("reconcile %s/%s: %s", key.namespace, key.name, error)
                self._failed(key, error.after if isinstance(error, ApiFailed) else None)
            except asyncio.CancelledError:
                self._queue.abandoned(key)
                raise
            except Exception:  # one resource's fault must not end the work on the others; a test shows it
                log.exception("reconcile %s/%s", key.namespace, key.name)
                self._failed(key)
            else:
                self._metrics.reconciles.labels("ok").inc()
                self._again(key, following)
            self._metrics.seconds.observe(time.monotonic() - began)

    def _failed(self, key: Key, after: float | None = None) -> None:
        self._metrics.reconciles.labels("failed").inc()
        self._queue.failed(key, after)

    def _again(self, key: Key, following: Next) -> None:
        """When the resource comes again: a trouble with growing delays, since what mends it may raise no event that we see."""
        if following.troubled:
            self._queue.failed(key)
        else:
            self._queue.done(key)
        if following.after is not None:
            self._queue.add_after(key, following.after)
