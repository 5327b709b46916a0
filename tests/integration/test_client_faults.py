"""The Python client against servers that misbehave as a sidecar does not: foreign answers, broken connections, endless bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dtesn_sidecar.client import (
    BadAnswer,
    ConnectionFailed,
    DTESNClient,
    RetryPolicy,
    ServerFailed,
    TimedOut,
    Unavailable,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
QUICK = RetryPolicy(base_seconds=0.0)


@asynccontextmanager
async def serving(handler: Handler, **options: object) -> AsyncIterator[DTESNClient]:
    """A client of a server that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app)
    await server.start_server()
    try:
        async with DTESNClient(str(server.make_url("/")), **{"retries": QUICK, "timeout": 100.0, **options}) as client:
            yield client
    finally:
        await server.close()


@asynccontextmanager
async def speaking(*answers: bytes, **options: object) -> AsyncIterator[tuple[DTESNClient, list[bytes]]]:
    """A client of a server that answers each connection's first request with the next of these bytes, and closes."""
    heads: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(heads), len(answers)) - 1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, DTESNClient(f"http://127.0.0.1:{port}", **{"retries": QUICK, "timeout": 100.0, **options}) as client:
        yield client, heads


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status.encode(), len(body), body)


METRICS = {
    "batching_enabled": True,
    "current_batch_size": 8,
    "pending_requests": 0,
    "metrics": {
        "requests_processed": 0,
        "avg_batch_size": None,
        "throughput_improvement": None,
        "avg_server_load": None,
        "batch_utilization": None,
        "success_rate": None,
        "requests_per_second": None,
        "avg_processing_time_ms": None,
        "avg_batch_wait_time": None,
        "failure_rate": None,
        "circuit_breaker_open": False,
    },
    "server_load": {"active_requests": 0, "a source of a later version": {"value": None, "reason": "none", "unit": "cars"}},
}


ANSWER = {
    "status": "success",
    "result": {
        "processed_output": {
            "output": "summary",
            "nodes": 1,
            "height": 0,
            "model": {"name": "dtesn", "seed": 42, "membrane_depth": 1, "esn_size": 32},
        },
        "processing_time_ms": 1.0,
        "engine_integration": {"batch_processed": False, "dynamic_batching": True, "batch_manager_active": True},
    },
    "performance_metrics": {
        "batching_enabled": True,
        "current_batch_size": None,
        "batch_throughput_improvement": None,
        "avg_server_load": None,
        "pending_requests": 0,
    },
}


async def test_a_broken_connection_is_made_again_unless_the_policy_says_no() -> None:
    answer = whole(json.dumps(ANSWER).encode())
    for broken in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"nonsense\r\n\r\n"):
        async with speaking(broken, broken, answer) as (client, heads):
            assert (await client.process("x")).result.processed_output.nodes == 1
            assert len(heads) == 3
        async with speaking(broken, answer, retries=RetryPolicy(resend=False)) as (client, heads):
            with pytest.raises(ConnectionFailed) as caught:
                await client.process("x")
            assert (caught.value.sent, len(heads)) == (True, 1)


async def test_what_a_later_version_adds_is_ignored() -> None:
    async with speaking(whole(json.dumps(METRICS).encode())) as (client, _):
        assert (await client.batch_metrics()).current_batch_size == 8


async def test_retry_after_of_a_proxy_is_waited_for() -> None:
    asked: list[float] = []

    async def busy(_request: web.Request) -> web.Response:
        asked.append(asyncio.get_running_loop().time())
        return web.Response(status=503, text="<html>come back</html>", headers={"Retry-After": "1"})

    async with serving(busy, retries=RetryPolicy(attempts=2, base_seconds=0.0)) as client:
        with pytest.raises(Unavailable, match="come back") as caught:
            await client.process("x")
    assert (caught.value.code, caught.value.attempts) == ("http_503", 2)
    assert asked[1] - asked[0] >= 1.0


@pytest.mark.parametrize("status", [500, 502, 507])
async def test_a_failed_server_is_not_asked_again(status: int) -> None:
    asked = 0

    async def failing(_request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=status)

    async with serving(failing) as client:
        with pytest.raises(ServerFailed):
            await client.process("x")
    assert asked == 1


async def test_each_attempt_tells_the_server_what_is_left_of_the_time() -> None:
    told: list[object] = []

    async def refusing(request: web.Request) -> web.Response:
        body = await request.json()
        told.append(body.get("timeout"))
        assert body["input_data"] == "x"
        return web.Response(status=429, headers={"Retry-After": "1"})

    async with serving(refusing, retries=RetryPolicy(attempts=3, base_seconds=0.0)) as client:
        for timeout, most in ((50.0, 50.0), (None, None)):
            told.clear()
            with pytest.raises(Exception, match="429"):
                await client.process("x", timeout=timeout)
            if most is None:
                assert told == [None] * 3
            else:
                first, second, third = told
                assert most > first > second + 0.9 > third + 1.8


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"not JSON", b"\xff", b"[" * 5000, b'{"status": "fine", "reasons": []}'])
async def test_an_answer_that_is_none_of_this_api_is_a_bad_answer(body: bytes) -> None:
    async def odd(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with serving(odd) as client:
        for call in (client.process("x"), client.batch_metrics(), client.ready(), client.process_batch(["x"])):
            with pytest.raises(BadAnswer):
                await call


async def test_a_redirect_is_not_followed() -> None:
    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("http://192.0.2.1/")

    async with serving(elsewhere) as client:
        with pytest.raises(BadAnswer, match="307"):
            await client.process("x")


@pytest.mark.parametrize("piece", [b" ", b"x" * 1000])
async def test_an_answer_without_end_is_cut_off(piece: bytes) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(piece * 1000)
        except ConnectionError:
            return response

    async with serving(endless, max_answer_bytes=1 << 20) as client:
        for call in (client.process("x"), client.ready(), client.process_batch(["x"])):
            with pytest.raises(BadAnswer, match="1048576"):
                await call


@asynccontextmanager
async def streaming(*lines: bytes, then: str = "end", **options: object) -> AsyncIterator[DTESNClient]:
    """A client of a server that streams these lines and then ends, breaks off or goes silent."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if then == "break":
            request.transport.abort()
        if then == "silence":
            await asyncio.Event().wait()
        return response

    async with serving(stream, **options) as client:
        yield client


def item(index: int) -> bytes:
    problem = {"title": "", "status": 500, "detail": "", "code": "compute_failed"}
    return json.dumps({"index": index, "status": "error", "error": problem}).encode() + b"\n"


async def test_lines_arrive_whole_however_they_are_cut() -> None:
    text = b"".join(item(index) for index in range(5))
    async with streaming(*(text[at : at + 7] for at in range(0, len(text), 7))) as client:
        assert [found.index for found in await client.process_batch(["x"] * 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("lines", "then", "kind"),
    [
        ((item(0),), "end", BadAnswer),
        ((item(0), item(1), item(2)), "end", BadAnswer),
        ((item(0), item(1)[:-10]), "end", BadAnswer),
        ((item(0), b"nonsense\n"), "end", BadAnswer),
        ((item(0),), "break", ConnectionFailed),
        ((item(0),), "silence", TimedOut),
    ],
    ids=["too few", "too many", "half a line", "no JSON", "broken off", "silent"],
)
async def test_a_stream_that_goes_wrong_is_an_error_after_what_came(lines: tuple[bytes, ...], then: str, kind: type[Exception]) -> None:
    async with streaming(*lines, then=then, timeout=2.0 if then == "silence" else 100.0) as client:
        stream = client.stream_batch(["x", "y"])
        assert (await anext(stream)).index == 0
        with pytest.raises(kind):
            _ = [outcome async for outcome in stream]
