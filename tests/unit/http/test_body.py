"""Reading a body in virtual time: what trickles in or breaks off is given up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web

from dtesn_sidecar.errors import MalformedBody, RequestTooLarge
from dtesn_sidecar.problems import HttpError
from dtesn_sidecar.routes_body import BODY_SECONDS, json_body

pytestmark = pytest.mark.looptime


class Trickle:
    """A body that comes in chunks, one each `pause` seconds, and then an error, its end, or nothing any more."""

    def __init__(self, chunks: list[bytes], pause: float, end: Exception | None = None, *, ends: bool = True) -> None:
        self._chunks, self._pause, self._end, self._ends = chunks, pause, end, ends

    def is_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        await asyncio.sleep(self._pause)
        if self._chunks:
            return self._chunks.pop(0)
        if self._end is not None:
            raise self._end
        if not self._ends:
            await asyncio.Event().wait()
        return b""


def request(content: Trickle) -> SimpleNamespace:
    return SimpleNamespace(headers={"Content-Type": "application/json"}, content_length=None, content=content)


async def test_a_body_in_time_is_read_whole_though_it_comes_in_pieces() -> None:
    assert await json_body(request(Trickle([b"a", b"b", b"c"], BODY_SECONDS / 10)), 100) == b"abc"


async def test_a_body_that_trickles_is_given_up_after_its_time() -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(HttpError) as caught:
        await json_body(request(Trickle([b"a"] * 1000, 1.0)), 10_000)
    assert caught.value.status == 408
    assert asyncio.get_running_loop().time() - began == pytest.approx(BODY_SECONDS)


async def test_a_body_that_stops_is_given_up_too() -> None:
    with pytest.raises(HttpError):
        await json_body(request(Trickle([b"a"], 1.0, ends=False)), 100)


async def test_a_body_without_a_length_is_refused_at_its_bound_and_not_read_further() -> None:
    content = Trickle([b"aaaa"] * 100, 0.001)
    with pytest.raises(RequestTooLarge):
        await json_body(request(content), 10)
    assert len(content._chunks) == 97


async def test_a_body_that_breaks_off_is_malformed() -> None:
    with pytest.raises(MalformedBody):
        await json_body(request(Trickle([b"a"], 0.1, web.RequestPayloadError("broken"))), 100)
