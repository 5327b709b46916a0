"""The live page over HTTP, without a browser: headers, versions, the event stream, its bounds and its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import pytest
from tests.integration.http_server import Server, running

from dtesn_api.wire import BatchMetricsResponse, LiveEvent
from dtesn_sidecar.pages.feed import MAX_LISTENERS

PROCESS = "/dtesn/process_with_batching"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
async def http(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(server) as http:
        yield http


def session(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None))


async def next_event(answer: aiohttp.ClientResponse) -> tuple[str, LiveEvent | None]:
    """The id and the data of the next event; no data: the stream says that it ends."""
    fields: dict[str, str] = {}
    while line := (await answer.content.readline()).decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    assert fields, "the stream ended without saying so"
    if fields.get("event") == "end":
        return "", None
    return fields["id"], msgspec.json.decode(fields["data"], type=LiveEvent)


async def metric(http: aiohttp.ClientSession, name: str) -> float:
    async with http.get("/metrics") as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await answer.text(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


@pytest.mark.parametrize("path", ["/", "/assets/page.js", "/assets/page.css", "/assets/icon.svg"])
async def test_the_pages_files_are_sent_under_a_strict_policy_and_only_where_they_changed(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as answer:
        assert answer.status == 200
        body, headers = await answer.read(), answer.headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-cache"
        assert body
    async with http.head(path) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
        assert int(answer.headers["Content-Length"]) == len(body)
        assert answer.headers["ETag"] == headers["ETag"]
    async with http.get(path, headers={"If-None-Match": headers["ETag"]}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["ETag"] == headers["ETag"]
    async with http.get(path, headers={"If-None-Match": '"another"'}) as answer:
        assert (answer.status, await answer.read()) == (200, body)
    async with http.post(path) as answer:
        assert answer.status == 405


async def test_what_is_no_file_of_the_page_is_not_found(http: aiohttp.ClientSession) -> None:
    for name in ("nothing.js", "page.py", "..%2Ffiles.py", "%2e%2e%2f__init__.py", "__init__.py", ""):
        async with http.get(f"/assets/{name}") as answer:
            assert answer.status == 404, name
            assert answer.content_type == "application/problem+json"


async def test_the_first_event_has_the_figures_of_batch_metrics_and_the_next_comes_by_itself(http: aiohttp.ClientSession) -> None:
    for text in ("one", "two", "three"):
        async with http.post(PROCESS, json={"input_data": text, "timeout": 100}) as answer:
            assert answer.status == 200
    async with http.get("/events") as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        while True:  # a sample may have been taken before the last of them
            _, event = await next_event(answer)
            async with http.get("/dtesn/batch_metrics") as other:
                body = msgspec.json.decode(await other.read(), type=BatchMetricsResponse)
            if event.metrics is not None and event.metrics.metrics.requests_processed == body.metrics.requests_processed:
                break
    shown = event.metrics.metrics
    same = (
        "avg_batch_size",
        "throughput_improvement",
        "batch_utilization",
        "success_rate",
        "avg_processing_time_ms",
        "avg_batch_wait_time",
    )
    assert {name: getattr(shown, name) for name in same} == {name: getattr(body.metrics, name) for name in same}
    assert set(event.metrics.server_load) == {"active_requests", "queue", "system"}
    assert event.phase == "serving"
    assert event.recent.requests["ok"] >= 3


async def test_a_listener_that_comes_back_gets_what_it_missed_and_one_of_another_server_everything(http: aiohttp.ClientSession) -> None:
    async with http.get("/events") as answer:
        await next_event(answer)
        seen, last = await next_event(answer)
    async with http.get("/events", headers={"Last-Event-ID": seen}) as answer:
        _, event = await next_event(answer)
        assert event.points
        assert min(point.time for point in event.points) > last.points[-1].time
    async with http.get("/events", headers={"Last-Event-ID": "another-1000"}) as answer:
        _, event = await next_event(answer)
        assert min(point.time for point in event.points) <= last.points[-1].time


async def test_the_head_of_the_stream_alone_can_be_had_and_other_methods_cannot(http: aiohttp.ClientSession) -> None:
    async with http.head("/events") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert await answer.read() == b""
    async with http.post("/events") as answer:
        assert answer.status == 405


async def test_more_listeners_than_there_may_be_are_told_when_to_come_back() -> None:
    with running() as server:
        async with session(server) as http:
            streams = [await http.get("/events") for _ in range(MAX_LISTENERS)]
            for stream in streams:
                await next_event(stream)
            async with http.get("/events") as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
                assert (await answer.json())["detail"] == f"{MAX_LISTENERS} live pages are open, which is the most"
            async with http.post(PROCESS, json={"input_data": "a", "timeout": 100}) as answer:
                assert answer.status == 200  # which keeps nobody from computing
            streams[0].close()
            status = 503
            while status == 503:  # until the server has seen it
                async with http.get("/events") as answer:
                    status = answer.status
            for stream in streams:
                stream.close()
            assert await metric(http, "dtesn_http_disconnects_total") == 0  # who leaves a stream left nothing unanswered


@pytest.mark.parametrize("command", [False, True])
async def test_a_drain_ends_open_streams_at_once_and_says_so(command: bool) -> None:
    delay = "600" if command else "0"
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": delay}) as server:
        async with session(server) as http:
            answers = [await http.get("/events") for _ in range(3)]
            for answer in answers:
                await next_event(answer)
            if command:  # the first half: still served, and the stream says so
                assert await asyncio.to_thread(server.drain) == 0
                event = (await next_event(answers[0]))[1]
                while event.phase != "leaving":
                    event = (await next_event(answers[0]))[1]
                assert event.reasons == ["the server is shutting down"]
            server.terminate()
            for answer in answers:
                while (await next_event(answer))[1] is not None:
                    pass
                assert await answer.content.read() == b""
        assert await asyncio.to_thread(server.end) == 0


async def test_the_stream_is_there_before_the_server_is_ready() -> None:
    with running({"DTESN_MODEL_ESN_SIZE": "1024"}, ready=False) as server:
        async with session(server) as http, http.get("/events") as answer:
            _, event = await next_event(answer)
            if event.phase == "starting":  # it may be quick
                assert (event.metrics, event.manager) == (None, None)
            while event.phase == "starting":
                _, event = await next_event(answer)
            assert event.phase == "serving"
        server.wait_until_ready()
