"""A way to the API server on which faults happen that a real one does not produce on demand: 5xx, cut connections, silence.

    with FaultyWay.to(cluster) as way:
        kubeconfig = cluster.write_kubeconfig("through", {"token": token}, server=way.url)
        way.fault = lambda call: 503 if call.method == "PATCH" else None
        way.cut_watches()

Whoever sends no Authorization of their own is the cluster's admin.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from tests.cluster.cluster import Cluster

_HOP = {"connection", "content-length", "host", "transfer-encoding"}

# A status; the connection ends without an answer; no answer ever comes; the call is passed on once `release()` is called.
Fault = int | Literal["cut", "hang", "hold"] | None


@dataclass(frozen=True)
class Call:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]

    @property
    def watch(self) -> bool:
        """Whether it asks for a stream of events."""
        return self.query.get("watch") in ("1", "true")


class FaultyWay:
    """A reverse proxy in a thread of its own. `calls` are those that arrived.

    `fault` decides for every call. While it does, nothing else is passed on: it may take its time to change the cluster.
    """

    def __init__(self, cluster: Cluster, tag: str) -> None:
        self.fault: Callable[[Call], Fault] = lambda _call: None
        self.calls: list[Call] = []
        self.expired: set[str] = set()  # of the watches that the API server ended with 410 Gone: the last part of the path
        self.url = ""
        self._cluster = cluster
        self._tag = tag
        self._watches: set[asyncio.Transport] = set()
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._ended = asyncio.Event()
        self._released = asyncio.Event()

    @classmethod
    @contextmanager
    def to(cls, cluster: Cluster, tag: str = "") -> Iterator[FaultyWay]:
        """One for the block. The audit log shows the tag behind the agent of whoever comes this way."""
        way = cls(cluster, tag)
        ready = threading.Event()
        thread = threading.Thread(target=lambda: way._loop.run_until_complete(way._serve(ready)), name="faulty-way")
        thread.start()
        try:
            if not ready.wait(30):
                raise RuntimeError("the proxy did not start")
            yield way
        finally:
            way._loop.call_soon_threadsafe(way._ended.set)
            thread.join()
            way._loop.close()

    def cut_watches(self) -> int:
        """End every open watch in the middle; how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(30)

    def release(self) -> None:
        """Pass on what is held, and hold nothing more."""
        self._loop.call_soon_threadsafe(self._released.set)

    async def _cut(self) -> int:
        cut, self._watches = self._watches, set()
        for connection in cut:
            connection.abort()
        return len(cut)

    async def _serve(self, ready: threading.Event) -> None:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        tls = self._cluster.tls
        async with ClientSession(connector=TCPConnector(ssl=tls, limit=0), timeout=ClientTimeout(total=None), auto_decompress=False) as up:
            application[_UP] = up
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            self.url = f"http://127.0.0.1:{port}"
            ready.set()
            await self._ended.wait()
            await self._cut()
            await _over()
            await runner.cleanup()
        async with asyncio.timeout(10):  # connections that a cancelled call closed say farewell first, as TLS wants it
            while len(self._selector.get_map()) > 1:  # noqa: ASYNC110 - no event tells; the one that stays is the loop itself
                await asyncio.sleep(0.01)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, dict(request.query))
        self.calls.append(call)
        fault = self.fault(call)
        if isinstance(fault, int):
            return _refusal(fault)
        if fault == "hang":
            await self._ended.wait()
        if fault == "hold":
            await self._released.wait()
            fault = None
        if fault is not None:
            _cut(request)
            return web.Response()  # into a connection that is gone
        try:
            return await self._pass_on(request, call)
        except (ClientError, ConnectionError):  # the API server is away, or whoever asked
            _cut(request)
            return web.Response()

    async def _pass_on(self, request: web.Request, call: Call) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers = headers if "Authorization" in headers else {**headers, **self._cluster.headers}
        headers["User-Agent"] = headers.get("User-Agent", "") + self._tag
        url, body = f"{self._cluster.url}{request.raw_path}", await request.read()
        async with request.app[_UP].request(request.method, url, headers=headers, data=body or None) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            connection = request.transport
            if call.watch and connection is not None:
                self._watches.add(connection)
            try:
                async for chunk in answer.content.iter_any():
                    if call.watch and b'"code":410' in chunk:
                        self.expired.add(call.path.rpartition("/")[2])
                    await response.write(chunk)
                await response.write_eof()
            finally:
                self._watches.discard(connection)
            return response


async def _over() -> None:
    """The end of what is still under way, whose callers are gone."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


_UP = web.AppKey("up", ClientSession)


def _cut(request: web.Request) -> None:
    """End the connection at once, without an answer."""
    if request.transport is not None:
        request.transport.abort()


def _refusal(status: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "a fault that a test asked for", "code": status}
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json")
