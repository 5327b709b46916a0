"""The event stream in virtual time: one producer, listeners that cost nothing unbounded, and an end that waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import msgspec
import pytest
from tests.unit.pages.page_support import World

from dtesn_api.wire import LiveEvent
from dtesn_sidecar.errors import Draining, Unavailable
from dtesn_sidecar.pages import Live
from dtesn_sidecar.pages.feed import MAX_LISTENERS, SAMPLE_SECONDS, STALLED_SECONDS
from dtesn_sidecar.pages.recorder import KEPT_POINTS

pytestmark = pytest.mark.looptime


class Reader:
    """A client: what it was written, and whether it takes more."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, data: bytes) -> None:
        await self.reads.wait()
        self.written.append(data)

    @property
    def ids(self) -> list[str]:
        return [line[4:].decode() for data in self.written for line in data.splitlines() if line.startswith(b"id: ")]

    @property
    def events(self) -> list[LiveEvent]:
        lines = [line for data in self.written for line in data.splitlines() if line.startswith(b"data: {") and line != b"data: {}"]
        return [msgspec.json.decode(line[6:], type=LiveEvent) for line in lines]

    @property
    def ended(self) -> bool:
        return self.written[-1:] == [b"event: end\ndata: {}\n\n"]


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Live]:
    live = Live(world.sources)
    producer = asyncio.create_task(live.run())
    try:
        yield live
    finally:
        producer.cancel()
        with suppress(asyncio.CancelledError):
            await producer


async def test_each_second_every_listener_gets_the_same_bytes() -> None:
    async with running(World()) as live:
        one, other = Reader(), Reader()
        tasks = [asyncio.create_task(live.feed(reader.write, 0)) for reader in (one, other)]
        await asyncio.sleep(10.5)
        assert len(one.written) == 11
        for mine, yours in zip(one.written[1:], other.written[1:], strict=True):
            assert mine is yours  # encoded once
        assert [len(event.points) for event in one.events] == [1] * 11
        assert all(int(b.rpartition("-")[2]) - int(a.rpartition("-")[2]) == 1 for a, b in pairwise(one.ids))
        live.close()
        await asyncio.gather(*tasks)
        assert one.ended
        assert other.ended
        assert live.listeners == 0


async def test_a_listener_that_comes_late_gets_the_last_five_minutes_at_once() -> None:
    async with running(World()) as live:
        await asyncio.sleep(1000.5)
        reader = Reader()
        task = asyncio.create_task(live.feed(reader.write, 0))
        await asyncio.sleep(0)
        assert len(reader.events[0].points) == KEPT_POINTS
        live.close()
        await task


async def test_a_listener_goes_on_where_it_was() -> None:
    async with running(World()) as live:
        await asyncio.sleep(20.5)
        first = Reader()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await live.feed(first.write, live.position(None))
        await asyncio.sleep(30)
        again = Reader()
        task = asyncio.create_task(live.feed(again.write, live.position(first.ids[-1])))
        await asyncio.sleep(0)
        (caught_up,) = again.events
        assert len(caught_up.points) == 30
        assert caught_up.points[0].time - first.events[-1].points[-1].time == pytest.approx(SAMPLE_SECONDS)
        live.close()
        await task


async def test_an_id_that_is_not_this_servers_begins_anew() -> None:
    async with running(World()) as live, running(World()) as other:
        await asyncio.sleep(5.5)
        reader = Reader()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await live.feed(reader.write, 0)
        mine = reader.ids[0]
        assert live.position(mine) == 6
        assert other.position(mine) == 0
        server = mine.partition("-")[0]
        for wrong in (
            None,
            "",
            "-",
            server,
            f"{server}-",
            f"{server}--1",
            f"{server}-999",
            f"{server}-²",
            f"{server}-{'9' * 5000}",
            "x" * 5000,
        ):
            assert live.position(wrong) == 0


async def test_a_slow_reader_gets_fewer_events_and_misses_no_point() -> None:
    async with running(World()) as live:
        slow = Reader()
        task = asyncio.create_task(live.feed(slow.write, 0))
        await asyncio.sleep(0.5)
        for _ in range(5):
            slow.reads.clear()
            await asyncio.sleep(10)
            slow.reads.set()
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        assert len(slow.written) < 15  # of more than fifty
        times = [point.time for event in slow.events for point in event.points]
        assert len(times) == len(set(times)) >= 51
        assert times == sorted(times)
        live.close()
        await task


async def test_a_reader_that_reads_nothing_is_cut_off() -> None:
    async with running(World()) as live:
        stuck = Reader()
        stuck.reads.clear()
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await live.feed(stuck.write, 0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(STALLED_SECONDS)
        assert live.listeners == 0


async def test_the_end_waits_for_no_reader() -> None:
    async with running(World()) as live:
        ready, stuck = Reader(), Reader()
        stuck.reads.clear()
        tasks = [asyncio.create_task(live.feed(reader.write, 0)) for reader in (ready, stuck)]
        await asyncio.sleep(5.5)
        ended = asyncio.get_running_loop().time()
        live.close()
        live.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.get_running_loop().time() == ended
        assert outcomes[0] is None
        assert ready.ended
        assert isinstance(outcomes[1], TimeoutError)
        with pytest.raises(Draining):
            live.check()


async def test_there_are_at_most_so_many_listeners_and_one_that_leaves_makes_room() -> None:
    async with running(World()) as live:
        tasks = [asyncio.create_task(live.feed(Reader().write, 0)) for _ in range(MAX_LISTENERS)]
        await asyncio.sleep(0.5)
        with pytest.raises(Unavailable) as refused:
            await live.feed(Reader().write, 0)
        assert refused.value.status == 503
        assert refused.value.retry_after == 5.0
        tasks[0].cancel()
        await asyncio.sleep(0)
        live.check()
        live.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_figures_that_cannot_be_taken_are_logged_once_and_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with running(world) as live:
        reader = Reader()
        task = asyncio.create_task(live.feed(reader.write, 0))
        await asyncio.sleep(2.5)
        world.set(breaker=None, pending_by_priority=None)  # tuple(None) raises
        await asyncio.sleep(10)
        assert len(reader.written) == 3
        assert caplog.text.count("could not be taken") == 1
        world.set()
        await asyncio.sleep(2)
        assert len(reader.written) == 5
        live.close()
        await task


async def test_without_listeners_nothing_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    async with running(World()) as live:
        whole = live._encoded

        def noted(position: int) -> bytes:
            encoded.append(position)
            return whole(position)

        monkeypatch.setattr(live, "_encoded", noted)
        await asyncio.sleep(100.5)
        assert encoded == []
        task = asyncio.create_task(live.feed(Reader().write, 0))
        await asyncio.sleep(5)
        assert len(encoded) == 6
        live.close()
        await task
