"""The load generator's client: what it makes of answers that come in any pieces, late, broken, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hypothesis.strategies as st
from bench.client import PENDING, Connection, Shot, header
from bench.loadgen import Generator
from bench.plans import Outcome, Plan
from hypothesis import given

Say = Callable[[bytes], list[bytes]]


def response(status: int, body: bytes = b"", *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Words", *fields, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Sent(asyncio.Transport):
    def write(self, data: object) -> None: ...

    def close(self) -> None: ...


def pieces(whole: bytes, cuts: set[int]) -> list[bytes]:
    inner = sorted(cut for cut in cuts if 0 < cut < len(whole))
    return [whole[start:end] for start, end in zip([0, *inner], [*inner, len(whole)], strict=True)]


ANSWERS = st.tuples(
    st.sampled_from([200, 429, 503, 504, 500]), st.binary(max_size=50), st.sampled_from(["", "Retry-After: 1", "retry-after:1"])
)


@given(st.lists(st.tuples(ANSWERS, st.sets(st.integers(1, 150), max_size=5)), min_size=1, max_size=4))
def test_answers_are_read_alike_however_they_are_cut(answers: list[tuple[tuple[int, bytes, str], set[int]]]) -> None:
    done: list[Shot] = []
    connection = Connection(lambda _, shot: done.append(shot), keep_bodies=True)
    connection.connection_made(Sent())
    for (status, body, field), cuts in answers:
        shot = Shot(0, 0.0)
        connection.send(b"", shot)
        *first, last = pieces(response(status, body, *([field] if field else [])), cuts)
        for piece in first:
            connection.data_received(piece)
            assert shot.status == PENDING
        connection.data_received(last)
        assert done.pop() is shot
        assert (shot.status, shot.retry_after) == (status, bool(field) and status != 200)
        assert shot.body == (body if status == 200 else b"")
        assert connection.reusable


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), st.text(st.characters(codec="ascii", categories=["L", "N"])))
def test_a_header_is_found_in_any_spelling(name: str, value: str) -> None:
    for line in (f"{name}: {value}", f"{name.swapcase()}:{value}"):
        for head in (f"HTTP/1.1 200 OK\r\nX-Y: 1\r\n{line}", f"HTTP/1.1 200 OK\r\n{line}\r\nX-Y: 1"):
            assert header(head.encode(), name.encode()) == value.encode()
    assert header(b"HTTP/1.1 200 OK\r\nX: 1", b"Y") is None


@asynccontextmanager
async def server(say: Say) -> AsyncIterator[int]:
    """Answers each request with these pieces; no pieces: it closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(header(head[:-4], b"Content-Length") or 0))
                said = say(body)
                for piece in said:
                    writer.write(piece)
                    await writer.drain()
                if not said:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def outcome(say: Say, **plan: object) -> Outcome:
    async with server(say) as port:
        return await Generator(Plan(port=port, seconds=0.2, warm_up=0.0, text_count=4, patience=0.1, **plan)).run()


async def test_what_the_server_does_is_counted_as_what_it_is() -> None:
    given = iter(
        [*[response(200)] * 5, *[response(429, b"", "Retry-After: 1")] * 3, response(503), b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP"]
    )

    def say(_body: bytes) -> list[bytes]:
        said = next(given, response(200))
        return [said] if said else []

    found = await outcome(say, rate=400.0)
    good = found.sent - 7
    assert found.statuses == {"200": good, "429": 3, "503": 1, "broken": 2}
    assert (found.hung, found.broken, found.failed, found.no_retry_after) == (1, 2, 4, 1)
    assert len(found.latencies_ms) == good


async def test_a_closed_loop_has_so_many_clients_and_each_asks_again() -> None:
    found = await outcome(lambda _: [response(200)], clients=3)
    assert found.sent > 3
    assert set(found.statuses) == {"200"}
    assert found.hung == 0


async def test_clients_that_find_nobody_are_refused() -> None:
    async with server(lambda _: []) as port:
        pass
    found = await Generator(Plan(port=port, seconds=0.1, warm_up=0.0, rate=300.0, text_count=4, patience=0.1)).run()
    assert found.statuses == {"refused": found.sent}
