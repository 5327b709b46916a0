"""The webhook as a task of every replica: certificates first, then the listener, then the certificates again and again.

It needs no leader, and a failure of its own stops nothing else: it is tried again, and readiness says so meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtesn_operator.errors import OperatorError
from dtesn_operator.webhook import server
from dtesn_operator.webhook.certificates import Pair
from dtesn_operator.webhook.keeper import keep

if TYPE_CHECKING:
    from aiohttp import web

    from dtesn_operator.webhook.keeper import Objects, Place

log = logging.getLogger(__name__)

INTERVAL: Final = 60.0  # seconds between two looks at the certificates: far less than what a rotation settles for
RETRY: Final = 2.0

Source = Callable[[], Awaitable[Pair]]
"""The certificate to serve now. It raises OperatorError or OSError where there is none at the moment."""


def kept(objects: Objects, place: Place) -> Source:
    """Certificates of our own, kept through the API server."""

    async def source() -> Pair:
        return (await keep(objects, place, datetime.now(UTC))).serving

    return source


def mounted(folder: Path) -> Source:
    """Certificates that someone else keeps in a folder (cert-manager's Secret, mounted): `tls.crt` and `tls.key`."""

    async def source() -> Pair:
        def read() -> Pair:
            return Pair((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes())

        return await asyncio.to_thread(read)

    return source


class Webhook:
    """One replica's webhook. `run` serves until it is cancelled; `port` is 0 until it listens."""

    def __init__(self, app: web.Application, source: Source, host: str, port: int, *, interval: float = INTERVAL) -> None:
        self._app, self._source, self._host, self._wanted = app, source, host, port
        self._interval = interval
        self._trouble = "it has no certificate yet"
        self.port = 0

    def not_ready(self) -> str:
        """Why it does not serve, or nothing. With an old certificate it does."""
        return "" if self.port else f"the webhook does not serve: {self._trouble}"

    async def run(self) -> None:
        """Serve, and take up a new certificate where there is one."""
        context: ssl.SSLContext | None = None
        current: Pair | None = None
        async with AsyncExitStack() as stack:
            while True:
                pause = self._interval
                try:
                    pair = await self._source()
                    if context is None:
                        context = server.server_context(pair)
                    elif pair != current:
                        server.server_context(pair)  # a key that is not the certificate's would spoil the context in use
                        server.load(context, pair)
                        log.info("the webhook serves a new certificate")
                    current = pair
                    if not self.port:
                        runner = await server.listen(self._app, context, self._host, self._wanted)
                        stack.push_async_callback(runner.cleanup)
                        self.port = runner.addresses[0][1]
                        log.info("the webhook listens on port %d", self.port)
                except (OperatorError, OSError) as error:  # of the API server, of files, of the port; ssl.SSLError is an OSError
                    self._trouble = str(error)
                    log.warning("the webhook's certificate or listener, tried again in %g s: %s", RETRY, error)
                    pause = RETRY
                await asyncio.sleep(pause)
