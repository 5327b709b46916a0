"""The endpoints of the live page: the page, its files, its events."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from dtesn_api.names import MEDIA_EVENTS
from dtesn_sidecar.errors import NotFound
from dtesn_sidecar.pages.feed import Live
from dtesn_sidecar.pages.files import HEADERS, PAGE, File, is_known, load
from dtesn_sidecar.routes_edge import VISIT, Edge

_STREAM_HEADERS: Final = {
    "Content-Type": MEDIA_EVENTS,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx holds an answer back otherwise
    "X-Content-Type-Options": "nosniff",
}


def add_page(app: web.Application, live: Live, edge: Edge) -> None:
    """Register the page's endpoints."""
    pages = _Pages(live, edge)
    app.router.add_get("/", pages.page)
    app.router.add_get("/assets/{name}", pages.asset)
    app.router.add_get("/events", pages.events)


class _Pages:
    def __init__(self, live: Live, edge: Edge) -> None:
        self._live, self._edge, self._files = live, edge, load()

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The page itself."""
        return _sent(request, self._files[PAGE])

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """A script, style or image of the page."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise NotFound("the page has no such file")
        return _sent(request, file)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The page's figures, as server-sent events: one a second."""
        self._live.check()
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        self._edge.stamp(response, request[VISIT])
        if request.method == "HEAD":
            return response
        position = self._live.position(request.headers.get("Last-Event-ID"))
        try:
            await response.prepare(request)
            await self._live.feed(response.write, position)
            await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # what it has not read it never will
        except (asyncio.CancelledError, ConnectionError):
            # Leaving is how a listener ends its stream: nobody is left without an answer, so none of that is counted.
            if request.transport is not None and not request.transport.is_closing():
                raise
        return response


def _sent(request: web.Request, file: File) -> web.Response:
    headers = {**HEADERS, "Content-Type": file.content_type, "ETag": file.etag}
    if is_known(file.etag, request.headers.get("If-None-Match")):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.body, headers=headers)
