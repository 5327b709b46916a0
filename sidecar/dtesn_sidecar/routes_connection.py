"""The protocol of a connection: aiohttp's, whose own errors are problem documents too, and ahead of which requests may be turned away.

This is the one file that knows what `web.RequestHandler` keeps inside; its tests hold the pinned version to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.web_request import BaseRequest

from dtesn_sidecar.problems import HttpError
from dtesn_sidecar.routes_edge import MALFORMED, OTHER, Edge
from dtesn_sidecar.routes_framing import Framing

if TYPE_CHECKING:
    from dtesn_sidecar.routes_turnstile import Turnstile

# Bounds of a connection. A client that sends its head too slowly is cut off by the keep-alive timeout too.
CONNECTION: Final[dict[str, Any]] = {
    "keepalive_timeout": 75.0,  # above the 60 s that proxies keep idle connections
    "max_line_size": 8190,
    "max_field_size": 8190,
    "max_headers": 100,
    "lingering_time": 5.0,  # seconds for which the rest of a refused body is read, so that the answer arrives
    "auto_decompress": False,  # a compressed body is refused: its size would be unknown
    "access_log": None,
}

_DISMISS_AGAIN_SECONDS: Final = 0.02  # until then a connection at a request, or just made, may wait for the next


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is left of an answer."""

    keep_alive: bool


_STAYS, _CLOSES = _Sent(True), _Sent(False)


class Connection(web.RequestHandler):
    """One connection. `turnstile` sees each plain request first."""

    __slots__ = ("_edge", "_framing", "_turnstile")

    def __init__(self, edge: Edge, server: web.Server, loop: asyncio.AbstractEventLoop, turnstile: Turnstile | None = None) -> None:
        super().__init__(server, loop=loop, **CONNECTION)
        self._edge, self._turnstile, self._framing = edge, turnstile, Framing()

    @property
    def _idle(self) -> bool:
        """Whether it waits for a request: every one before has its answer, and that is written."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._close and not self._force_close

    def data_received(self, data: bytes) -> None:
        """Answer the request, if it is one that is turned away, or leave it to aiohttp (which calls this with nothing to go on)."""
        if data and self._turnstile is not None and (request := self._framing.whole(data)) is not None and self._idle:
            answer = None if self._paused else self._turnstile.answer(request, self._remote)  # paused: the client does not read
            if answer is not None and self.transport is not None:
                self.transport.write(answer)
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                return
        super().data_received(data)

    @property
    def _remote(self) -> str | None:
        peer = self.peername
        return str(peer[0]) if isinstance(peer, tuple) else peer

    def dismiss(self, farewell: Callable[[], bytes]) -> None:
        """Where it waits for a request, send this instead, and nothing after it."""
        transport = self.transport
        if not self._idle or transport is None or transport.is_closing():
            return  # it is at a request, it was dismissed before, or it is gone
        self.close()  # what comes from now on is read and ignored
        transport.write(farewell())
        transport.write_eof()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp answers where the request is not HTTP, or the middleware itself failed."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("an answer has been begun already, or there is nobody to be answered")
        error = HttpError(400) if status == 400 else exc if exc is not None else HttpError(500)
        response = self._edge.outside(request, error, MALFORMED if status == 400 else OTHER)
        response.force_close()
        return response

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer. An HTTPException here was raised before the middleware (an expectation that is not met).

        aiohttp keeps what this returns until the next request has its answer, and asks it whether the connection stays. An idle
        connection would hold its last answer, a fifth of its memory, for that.
        """
        if isinstance(resp, web.HTTPException):
            resp = self._edge.outside(request, resp, OTHER)
        sent, reset = await super().finish_response(request, resp, start_time)
        return cast("web.StreamResponse", _STAYS if sent.keep_alive else _CLOSES), reset


async def dismiss(server: web.Server, farewell: Callable[[], bytes], seconds: float) -> None:
    """Answer every idle connection that it is over, and return once the clients have closed them, or after so many seconds.

    A request may be on its way while an idle connection is closed, and would be lost without an answer. So its answer
    is sent in advance, and the connection is read from until the client has closed it.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (open_ := server.connections) and loop.time() < until:
        for connection in open_:
            if isinstance(connection, Connection):
                connection.dismiss(farewell)
        await asyncio.sleep(_DISMISS_AGAIN_SECONDS)
