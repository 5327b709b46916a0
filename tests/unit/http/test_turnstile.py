"""Requests that are turned away before aiohttp sees them: the same answer as by the usual way, in its turn, and nothing else changed."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from aiohttp import web
from hypothesis import example, given
from tests.unit.http.wire import MAX_BODY, PROCESS, Line, Response, connected, post

from dtesn_sidecar.errors import DTESNError, QueueFull
from dtesn_sidecar.health import Phase
from dtesn_sidecar.routes_connection import dismiss

ID = "X-Request-ID"
KEEP_ALIVE = 75.0


def always(_priority: int, _timeout: float | None, _direct: bool) -> DTESNError:
    return QueueFull("full", retry_after=2.4)


def taken(line: Line) -> bool:
    """Whether aiohttp was left out."""
    return not line.connection._request_count


# -- one request -------------------------------------------------------------------------------------------------------


async def test_who_is_turned_away_gets_what_the_endpoint_would_have_said() -> None:
    async def refused(line: Line) -> tuple[Response, dict[str, object]]:
        (response,) = await line.send(post(X_Request_ID="me", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"))
        assert line.count(f'dtesn_http_responses_total{{route="{PROCESS}",status="429"}}') == 1
        (record,) = line.records()
        return response, record

    async with connected(always) as line:
        quick, quick_record = await refused(line)
        assert taken(line)
    async with connected() as line:

        async def full(*_: object, **__: object) -> object:
            raise always(1, None, False)

        line.processor.process_with_dynamic_batching = full  # type: ignore[assignment, method-assign]
        usual, usual_record = await refused(line)
        assert not taken(line)
    assert (quick.status, quick.body) == (usual.status, usual.body)
    assert quick.headers.keys() == usual.headers.keys()
    changing = {"date", "server-timing", "traceresponse"}
    assert {name: quick.headers[name] for name in quick.headers.keys() - changing} == {
        name: usual.headers[name] for name in usual.headers.keys() - changing
    }
    assert (quick.headers["retry-after"], quick.headers["x-request-id"]) == ("3", "me")
    assert quick.headers["traceresponse"].startswith(f"00-{'a' * 32}-")
    assert json.loads(quick.body)["code"] == "queue_full"
    changing = {"time", "total_ms"}
    assert quick_record.keys() == usual_record.keys()
    assert all(quick_record[name] == usual_record[name] for name in quick_record.keys() - changing)


@pytest.mark.parametrize(
    ("path", "fields", "asked"),
    [
        (PROCESS, {}, (1, None, False)),
        (PROCESS, {"priority": 2, "timeout": 0.5}, (2, 0.5, False)),
        (PROCESS, {"enable_batching": False}, (1, None, True)),
        ("/dtesn/process", {"priority": 0}, (0, None, True)),
    ],
)
async def test_it_is_asked_for_the_priority_the_timeout_and_the_way_of_the_request(
    path: str, fields: dict[str, object], asked: tuple[object, ...]
) -> None:
    async with connected(always) as line:
        (response,) = await line.send(post({"input_data": "ab", **fields}, path=path))
        assert (response.status, line.processor.asked) == (429, [asked])
        line.processor.batching_enabled = False
        await line.send(post(path=PROCESS))
        assert line.processor.asked[1:] == [(1, None, True)]


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (post(b"{"), [400]),
        (post({"input_data": "ab", "priority": 7}), [422]),
        (post({"input_data": "ab", "unknown": 1}), [422]),
        (post({}), [422]),
        (post(b'{"input_data": "\xff"}'), [400]),
        (post(b"[" * 1500 + b"]" * 1500), [422]),
        (post({"input_data": "x" * MAX_BODY}), [413]),
        (post(Content_Type="text/plain"), [415]),
        (post(Content_Encoding="gzip"), [415]),
        (post(Expect="100-continue"), [100, 200]),
        (post(Connection="close"), [200]),
        (post({"inputs": ["a"]}, path="/dtesn/other"), [404]),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", [200]),
        (post({"input_data": "ab"}).replace(b"POST", b"PUT"), [405]),
    ],
)
async def test_whatever_else_there_is_to_say_of_a_request_is_said_by_its_endpoint(request_: bytes, statuses: list[int]) -> None:
    async with connected(always) as line:
        if b"/healthz" in request_:
            line.processor.manager.running = False
        assert [response.status for response in await line.send(request_)] == statuses
        assert not taken(line)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.LEAVING, Phase.CLOSED])
async def test_a_server_that_starts_or_leaves_says_that_to_everyone(phase: Phase) -> None:
    async with connected(always) as line:
        line.gate.phase = phase
        await line.send(post())
        assert not taken(line)


# -- many on one connection --------------------------------------------------------------------------------------------

END = b"\r\n0\r\n\r\n"  # of a body in chunks
PLAIN = st.builds(lambda priority: post({"input_data": "ab", "priority": priority}), st.integers(0, 2))
ODD = st.sampled_from(
    [
        b"GET /openapi HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        post(b"14\r\n" + b'{"input_data": "ab"}' + END, length=False, Transfer_Encoding="chunked"),
        post(b"%x\r\n" % len(post()) + post() + END, length=False, Transfer_Encoding="chunked"),
        post(post()),  # whose body, alone, is a request
        post().replace(b"Host: a", b"Host: a\r\nX-Odd: POST %b HTTP/1.1" % PROCESS.encode()),  # and the end of whose head is one
        post(Expect="100-continue"),
        post({"input_data": "ab", "depth": 7}),
        post(b"{"),
        post({"input_data": "ab" * 40}),
        post(Connection="keep-alive"),
    ]
)
WRONG = st.sampled_from(
    [
        post(content_length="3"),
        post(Content_Length="3"),
        post(Content_Length="30"),
        post(Transfer_Encoding="chunked"),
        post(Transfer_Encoding="identity, chunked"),
        post(X="a\r\n b"),
        post().replace(b"\r\n", b"\n"),
        post(Connection="close"),
        post(Connection="Upgrade", Upgrade="h2c"),
        b"\r\n\r\n",
        b"\x00\x01",
        b"POST / HTTP/9.9\r\n\r\n",
    ]
)


def numbered(requests: list[bytes]) -> bytes:
    """One stream, each request with its number as its id."""
    return b"".join(request.replace(b"Host: a", b"Host: a\r\nX-Request-ID: n%d" % number) for number, request in enumerate(requests))


async def answers(turn_away: Callable[..., DTESNError | None] | None, pieces: list[bytes], patient: bool) -> list[tuple[int, str]]:
    """Status and id of each response; 429 reads as 200, and an id that no request had as none. `patient`: each piece waits for the last."""
    async with connected(turn_away) as line:
        for piece in pieces:
            line.connection.data_received(piece)
            if patient:
                await line.settle()
            else:
                await asyncio.sleep(0)
        seen = -1
        while seen != (seen := len(line.transport.written)):
            await line.settle()
        found = parsed(bytes(line.transport.written))
        closed = line.transport.closed
    return [*found, (0, "closed" if closed else "open")]


def parsed(written: bytes) -> list[tuple[int, str]]:
    """The heads of what was written: bodies here never hold one."""
    found = []
    for head in written.split(b"HTTP/1.1 ")[1:]:
        status = int(head[:3])
        _, _, given = head.partition(b"\r\nX-Request-ID: ")
        identity = given.split(b"\r\n", 1)[0].decode()
        found.append((200 if status == 429 else status, identity if identity.startswith("n") else ""))
    return found


@st.composite
def streams(draw: st.DrawFn, requests: st.SearchStrategy[list[bytes]]) -> list[bytes]:
    """A stream of requests, cut anywhere; where a request begins is a likely place."""
    chosen = draw(requests)
    stream = numbered(chosen)
    likely = [found.start() for found in re.finditer(b"POST |GET |HEAD |" + END, stream)] or [0]
    cuts = draw(st.sets(st.sampled_from(likely))) | draw(st.sets(st.integers(1, len(stream)), max_size=2))
    inner = sorted(cut for cut in cuts if 0 < cut < len(stream))
    return [stream[start:end] for start, end in zip([0, *inner], [*inner, len(stream)], strict=True)]


def some(priority: int, _timeout: float | None, _direct: bool) -> DTESNError | None:
    return QueueFull("full") if priority else None


@given(streams(st.lists(PLAIN | ODD, min_size=1, max_size=6)), st.booleans())
async def test_every_request_of_any_stream_has_one_answer_in_its_turn_however_it_is_cut(pieces: list[bytes], patient: bool) -> None:
    assert await answers(some, pieces, patient) == await answers(None, pieces, patient)


@given(streams(st.lists(PLAIN | ODD | WRONG, min_size=1, max_size=6)), st.booleans())
@example([post(), post(Transfer_Encoding="chunked", Content_Length="3"), post()], True)
async def test_a_stream_that_is_not_http_ends_where_it_would_have_ended(pieces: list[bytes], patient: bool) -> None:
    assert await answers(always, pieces, patient) == await answers(None, pieces, patient)


async def test_a_request_behind_one_that_is_at_work_waits_for_its_answer() -> None:
    async with connected(lambda priority, *_: QueueFull("full") if priority == 2 else None) as line:
        release = asyncio.Event()
        usual = line.processor.process_with_dynamic_batching

        async def slow(*inputs: object, **options: object) -> object:
            await release.wait()
            return await usual(*inputs, **options)

        line.processor.process_with_dynamic_batching = slow  # type: ignore[assignment, method-assign]
        assert await line.send(post({"input_data": "ab", "priority": 1}, X_Request_ID="first")) == []
        assert await line.send(post({"input_data": "ab", "priority": 2}, X_Request_ID="second")) == []
        release.set()
        await line.settle()
        assert parsed(bytes(line.transport.written).replace(b": first", b": n1").replace(b": second", b": n2")) == [
            (200, "n1"),
            (200, "n2"),
        ]


# -- the connection ----------------------------------------------------------------------------------------------------


@pytest.mark.looptime(start=1000)
async def test_a_connection_stays_as_long_as_it_is_used_though_all_its_requests_are_turned_away() -> None:
    async with connected(always) as line:
        for _ in range(10):
            assert [response.status for response in await line.send(post())] == [429]
            await asyncio.sleep(KEEP_ALIVE - 5)
            assert not line.transport.closed
        await asyncio.sleep(10)
        assert line.transport.closed


async def test_an_idle_connection_keeps_nothing_of_its_last_answer() -> None:
    def answers_held() -> int:
        return sum(isinstance(each, web.StreamResponse) for each in gc.get_objects())

    async with connected() as line:
        before = answers_held()
        assert [response.status for response in await line.send(post())] == [200]
        assert answers_held() == before
        assert not line.transport.closed
        assert [response.status for response in await line.send(post(Connection="close"))] == [200]
        assert line.transport.closed


async def test_a_client_that_does_not_read_its_answers_is_left_to_aiohttp() -> None:
    async with connected(always) as line:
        line.connection.pause_writing()
        line.connection.data_received(post())
        assert not line.transport.written
        assert line.processor.asked == []
        line.connection.resume_writing()


async def test_nothing_is_turned_away_after_the_farewell() -> None:
    async with connected(always) as line:
        server = line.connection._manager
        assert server is not None
        dismissing = asyncio.create_task(dismiss(server, line.edge.farewell, 0.0001))
        await line.settle()
        assert await line.send(post()) == []
        await dismissing
        assert [status for status, _ in parsed(bytes(line.transport.written))] == [503]
