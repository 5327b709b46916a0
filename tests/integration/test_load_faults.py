"""Servers that a load provider must survive: slow, hung, lying, huge, garbled, or after its credentials. Each is no data with a reason."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dtesn_api.spec import EngineSource, PrometheusAuth, PrometheusSource
from dtesn_sidecar.load import NoData, Reading, ServerLoadTracker
from dtesn_sidecar.load.engine import engine_load
from dtesn_sidecar.load.http import address, get
from dtesn_sidecar.load.prometheus import MOST_BYTES, prometheus_load
from dtesn_sidecar.load.readings import LoadSource

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATIENT = 100.0


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """A server whose every path is that handler's; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@asynccontextmanager
async def sending(content: bytes, *, close: bool = True) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that knows no HTTP: it sends the same bytes to everyone, and may then stay silent. With the event of the first caller."""
    asked = asyncio.Event()
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            writer.write(content)
            await writer.drain()
            if not close:
                await gone.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
        finally:
            gone.set()


async def ask(url: str, **fields: object) -> Reading | NoData:
    source = PrometheusSource(**{"name": "mine", "url": url, "query": "sum(up)", "timeout_seconds": PATIENT, **fields})
    answer = await prometheus_load(source, time.monotonic, time.time)()
    assert isinstance(answer, Reading | NoData)
    return answer


async def reason(url: str, **fields: object) -> str:
    answer = await ask(url, **fields)
    assert isinstance(answer, NoData), answer
    return answer.reason


def success(result: object, kind: str = "vector") -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def saying(body: bytes, status: int = 200, media: str = "application/json", **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": media, **headers})

    return handler


async def test_a_server_that_never_answers_is_given_up_after_its_time() -> None:
    async with sending(b"", close=False) as (url, _):
        assert await reason(url, timeout_seconds=0.2) == "no answer within 0.2 s"


async def test_a_server_that_stops_in_the_middle_is_given_up_after_its_time() -> None:
    async with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=False) as (url, _):
        assert await reason(url, timeout_seconds=0.2) == "no answer within 0.2 s"


async def test_a_source_that_is_taken_away_in_the_middle_of_a_poll_leaves_no_connection_behind() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        try:
            assert await reader.read() == b""
        except ConnectionError:  # reset: gone as well
            pass
        finally:
            closed.set()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, ServerLoadTracker() as tracker:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        spec = PrometheusSource(name="mine", url=url, query="up", timeout_seconds=PATIENT)
        tracker.configure([LoadSource("mine", prometheus_load(spec, time.monotonic, time.time))])
        await asked.wait()
        tracker.configure([])
        await closed.wait()


async def test_the_time_of_a_poll_is_one_for_both_of_its_queries() -> None:
    first = True

    async def handler(_request: web.Request) -> web.Response:
        nonlocal first
        if not first:
            await asyncio.Event().wait()
        first = False
        return web.Response(body=success([{"metric": {}, "value": [time.time(), "0.5"]}]))

    async with answering(handler) as url:
        assert (await reason(url, query="up", timeout_seconds=0.3)).startswith("no answer within 0.")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the connection failed: ServerDisconnectedError: Server disconnected"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP answer: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "the connection failed: ClientPayloadError: "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not an HTTP answer: "),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "not an HTTP answer: "),
    ],
)
async def test_what_is_not_http_is_no_data(content: bytes, why: str) -> None:
    async with sending(content) as (url, _):
        found = await reason(url + "/?token=s3cr3t")
        assert found.startswith(why)
        assert "s3cr3t" not in found


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (saying(b"<html>log in</html>", media="text/html"), "HTTP 200 with text/html: not an answer of the Prometheus API"),
        (saying(b"upstream down", 502, "text/plain"), "HTTP 502 with text/plain: not an answer of the Prometheus API"),
        (saying(b""), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(b"[" * 100_000), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(b"\xff\xfe{}"), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(b"[1, 2]"), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(b'{"status": "success"}'), "HTTP 200, status success"),
        (saying(success([{"metric": {}, "value": [1, 2]}])), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(success([{"metric": {}, "value": [1, "two"]}])), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(success([1, "1"], "vector")), "HTTP 200 with application/json: not an answer of the Prometheus API"),
        (saying(success([{"metric": {}, "histogram": [1, {}]}])), "the query yields histograms, not numbers"),
        (saying(success([], "surprise\n")), "the query yields a surprise\\n, not a vector or a scalar"),
        (saying(b'{"status":"error","errorType":"timeout","error":"too\\nslow"}', 503), "HTTP 503, timeout: too\\nslow"),
        (saying(b'{"status":"error"}'), "HTTP 200, status error"),
        (saying(success([1, "1"], "scalar"), 500), "HTTP 500, status success"),
        (saying(b" " * (MOST_BYTES + 1)), "HTTP 200, an answer of more than 1 MiB"),
        (saying(b"x", **{"Content-Encoding": "br"}), "HTTP 200, compressed though that was not accepted"),
        (saying(gzip.compress(bytes(1 << 20)), **{"Content-Encoding": "gzip"}), "HTTP 200, compressed though that was not accepted"),
    ],
)
async def test_an_answer_that_is_none_is_no_data_with_its_reason(handler: Handler, why: str) -> None:
    async with answering(handler) as url:
        assert await reason(url) == why


async def test_an_answer_without_an_end_is_read_no_further_than_its_bound() -> None:
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65_536))
        finally:
            ended.set()

    async with answering(handler) as url:
        assert await reason(url) == "HTTP 200, an answer of more than 1 MiB"
        await ended.wait()


async def test_a_long_error_is_cut_and_shows_no_secret(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"status": "error", "errorType": "echo", "error": request.headers["Authorization"] + "x" * 10_000})

    token, user, password = tmp_path / "token", tmp_path / "user", tmp_path / "password"
    token.write_text("s3cr3t-token")
    user.write_text("me")
    password.write_text("s3cr3t-word")
    async with answering(handler) as url:
        found = await reason(url, auth=PrometheusAuth(bearer_token_file=str(token)))
        assert found.startswith("HTTP 200, echo: Bearer ***xxx")
        assert len(found) < 300
        found = await reason(url, auth=PrometheusAuth(username_file=str(user), password_file=str(password)))
        assert found.startswith("HTTP 200, echo: Basic ***xxx")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_so_that_credentials_stay_with_their_host(tmp_path: Path, status: int) -> None:
    asked: list[str] = []

    async def thief(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization", ""))
        return web.Response(body=success([0, "1"], "scalar"))

    token = tmp_path / "token"
    token.write_text("s3cr3t")
    async with answering(thief) as elsewhere, answering(saying(b"", status, Location=f"{elsewhere}login/s3cr3t?next=s3cr3t")) as url:
        found = await reason(url, auth=PrometheusAuth(bearer_token_file=str(token)))
    assert found == f"HTTP {status} to {elsewhere}login/***: redirects are not followed, give the URL it leads to"
    assert asked == []


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with answering(saying(success([time.time(), "0.5"], "scalar"))) as url:
        assert isinstance(await ask(url), Reading)


async def test_a_sample_from_the_future_is_no_data_since_the_clocks_differ() -> None:
    async with answering(saying(success([time.time() + 3600, "0.5"], "scalar"))) as url:
        assert "in the future: the clocks differ" in await reason(url)


async def test_a_sample_from_long_ago_is_as_old_as_it_says() -> None:
    async with answering(saying(success([time.time() - 3600, "0.5"], "scalar"))) as url:
        found = await ask(url)
        assert isinstance(found, Reading)
        assert time.monotonic() - found.at >= 3600


async def test_where_nobody_listens_there_is_no_connection() -> None:
    async with answering(saying(b"")) as url:
        pass
    found = await reason(url)
    assert found.startswith("no connection to 127.0.0.1:")
    assert found.endswith(": Connection refused")


async def test_a_host_that_does_not_exist_is_named() -> None:
    assert (await reason("http://no-such-host.invalid:9090")).startswith("the host no-such-host.invalid is not found: ")


@pytest.mark.parametrize("url", ["http://[::1", "http://host:99999", "http://a..b:9090", "http://%zz"])
async def test_a_url_that_cannot_be_asked_is_no_data(url: str) -> None:
    assert isinstance(await get(url, seconds=PATIENT, most_bytes=10), NoData)


@pytest.mark.parametrize(
    ("base", "whole"),
    [
        ("http://h:9090", "http://h:9090/api?query=up%7Ba%3D%22%26%20%2B%22%7D"),
        ("http://h/prefix/", "http://h/prefix/api?query=up%7Ba%3D%22%26%20%2B%22%7D"),
        ("https://h/?tenant=a%20b#there", "https://h/api?tenant=a%20b&query=up%7Ba%3D%22%26%20%2B%22%7D"),
    ],
)
async def test_the_address_keeps_prefix_and_query_of_the_base(base: str, whole: str) -> None:
    assert address(base, "/api", {"query": 'up{a="& +"}'}) == whole


async def test_a_query_arrives_as_it_was_written() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query["query"])
        return web.Response(body=success([time.time(), "0.5"], "scalar"))

    query = 'sum(rate(a{b=~"c|d+ %41&;#\u00e9"}[1m])) / 2 # \u2713'
    async with answering(handler) as url:
        await ask(url, query=query)
    assert asked == [query]


async def test_an_engine_that_hangs_or_lies_is_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtesn_sidecar.load.engine.TIMEOUT", 0.2)
    async with sending(b"", close=False) as (url, _):
        found = await engine_load(EngineSource(url=url))()
        assert found == NoData("/load: no answer within 0.2 s; /metrics: no answer within 0.2 s")
