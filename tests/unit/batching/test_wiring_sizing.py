"""Load, measured costs, deadlines and arrivals as they reach the size of a batch and its window."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest
from tests.unit.batching.wiring_support import Ask, Runner, ask, asking, managed, teach

from dtesn_sidecar.batching.strategies import Hold, Size

pytestmark = pytest.mark.looptime(start=1000)

MIDDLE = math.sqrt(4 * 36)


@pytest.mark.parametrize("strategy", ["load_aware", "just_in_time"])
@pytest.mark.parametrize(("load", "limit", "wait_ms"), [(None, 10, MIDDLE), (0.0, 15, 36.0), (0.5, 10, MIDDLE), (1.0, 5, 4.0)])
async def test_the_load_moves_the_limit_and_the_window(strategy: str, load: float | None, limit: int, wait_ms: float) -> None:
    config: dict[str, Any] = {"target_batch_size": 10, "load_adjustment_factor": 0.5, "enable_adaptive_sizing": False}
    config |= {"min_batch_wait_ms": 4, "max_batch_wait_ms": 36, "strategy": strategy}
    async with managed(Runner(), None, lambda: load, **config) as manager:
        await asyncio.sleep(60)
        shown = manager.snapshot()
    assert shown.load == load
    assert shown.limit == limit
    assert shown.wait_ms == pytest.approx(wait_ms)


async def test_fixed_looks_at_no_load() -> None:
    config: dict[str, Any] = {"target_batch_size": 10, "max_batch_wait_ms": 36, "strategy": "fixed"}
    async with managed(Runner(), None, lambda: 1.0, **config) as manager:
        await asyncio.sleep(60)
        shown = manager.snapshot()
    assert (shown.limit, shown.wait_ms) == (10, pytest.approx(36.0))


async def test_fixed_waits_its_longest_from_the_very_first_request() -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, min_batch_wait_ms=5, max_batch_wait_ms=5000, strategy="fixed") as manager:
        assert (await ask(manager, Ask())).seconds == pytest.approx(5.1, abs=0.01)


async def test_fixed_holds_at_once_where_it_replaces_another_strategy() -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, min_batch_wait_ms=5, max_batch_wait_ms=5000) as manager:
        await ask(manager, Ask(), timeout=60)
        await asyncio.sleep(10)
        manager.reconfigure(msgspec.structs.replace(manager.config, strategy="fixed", target_batch_size=3))
        first = asking(manager, Ask(), timeout=60)
        await asyncio.sleep(4)
        assert not first.done()
        assert (await first).seconds == pytest.approx(5.1, abs=0.01)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
async def test_the_window_moves_towards_its_aim_by_the_adaptation_rate_per_tenth_of_a_second(rate: float) -> None:
    async with managed(Runner(), None, lambda: 0.0, adaptation_rate=rate, min_batch_wait_ms=4, max_batch_wait_ms=36) as manager:
        await asyncio.sleep(1.0)
        shown = manager.snapshot()
    assert shown.wait_ms == pytest.approx(36 - (36 - MIDDLE) * (1 - rate) ** 10)


async def test_adaptive_sizing_takes_its_base_from_what_was_measured_and_can_be_turned_off() -> None:
    bases = []
    for adaptive in (True, False):
        runner = Runner(fixed=0.02, marginal=0.005)
        async with managed(runner, enable_adaptive_sizing=adaptive, max_batch_seconds=0.25) as manager:
            await teach(manager, runner, rounds=10, most_nodes=4)
            for n in range(20):
                await ask(manager, Ask(n), timeout=60)
            bases.append(manager.snapshot().target)
    assert bases[0] > 16, "twice the target: 20 ms are spent on a batch of whatever size"
    assert bases[1] == 8


async def test_tight_deadlines_make_the_adaptive_base_smaller() -> None:
    runner = Runner(fixed=0.02, marginal=0.005)
    async with managed(runner, max_batch_seconds=0.25) as manager:
        await teach(manager, runner, rounds=10, most_nodes=4)
        for n in range(50):
            await ask(manager, Ask(n), timeout=60)
        before = manager.snapshot().target
        for n in range(200):
            await ask(manager, Ask(n), timeout=0.1)
        after = manager.snapshot().target
    assert before > 16
    assert 1 <= after <= 5, "two batches must fit into 0.9 of 100 ms"


@pytest.mark.parametrize(("longest", "most"), [(0.25, 32), (0.05, 6)])
async def test_the_adaptive_base_keeps_a_batch_within_its_longest_seconds(longest: float, most: int) -> None:
    runner = Runner(fixed=0.02, marginal=0.005)
    async with managed(runner, max_batch_seconds=longest) as manager:
        await teach(manager, runner, rounds=10, most_nodes=4)
        assert most / 3 <= manager.snapshot().target <= most


async def stream(manager: Any, count: int, gap: float, name: str) -> list[asyncio.Task[Any]]:
    tasks = []
    for _ in range(count):
        tasks.append(asking(manager, Ask(name), timeout=60))
        await asyncio.sleep(gap)
    return tasks


@pytest.mark.parametrize(("strategy", "held"), [("load_aware", True), ("just_in_time", False)])
async def test_after_a_pause_in_a_stream_the_first_of_the_next_is_held_for_those_who_follow(strategy: str, held: bool) -> None:
    """lambda T(n) > n: more arrive during the compute than are in hand."""
    runner = Runner(fixed=0.02, marginal=0.0005)
    async with managed(runner, strategy=strategy) as manager:
        await asyncio.gather(*await stream(manager, 500, 0.004, "before"))
        await asyncio.sleep(3)
        await asyncio.gather(*await stream(manager, 50, 0.004, "after"))
    first = next(run for run in runner.runs if "after" in run.names)
    assert (len(first.asks) > 1) is held


async def test_a_hold_for_arrivals_ends_when_they_stay_away() -> None:
    runner = Runner(fixed=0.02, marginal=0.0005)
    async with managed(runner, max_batch_wait_ms=10_000) as manager:
        await asyncio.gather(*await stream(manager, 500, 0.004, "before"))
        await asyncio.sleep(3)
        lone = await ask(manager, Ask("lone"), timeout=60)
    assert lone.seconds < 0.02 + 0.05, "a few mean gaps, and not the window"


@pytest.mark.parametrize("wait_ms", [0, 30, 300, 3000])
async def test_fixed_holds_a_lone_request_for_the_longest_window(wait_ms: int) -> None:
    runner = Runner(fixed=0.02)
    async with managed(runner, strategy="fixed", min_batch_wait_ms=0, max_batch_wait_ms=wait_ms) as manager:
        await asyncio.sleep(60)  # the window is smoothed, from the middle of its bounds
        done = await manager.submit_detailed(Ask(), timeout=60)
    assert done.queue_seconds == pytest.approx(wait_ms / 1000, abs=0.002)
    assert done.closed_by == "window"


async def test_a_window_closes_early_for_the_tightest_deadline_in_it_and_says_so() -> None:
    runner = Runner(fixed=0.2)
    async with managed(runner, strategy="fixed", max_batch_wait_ms=10_000) as manager:
        await teach(manager, runner)
        patient = asyncio.create_task(manager.submit_detailed(Ask("patient"), timeout=60))
        tight = await manager.submit_detailed(Ask("tight"), timeout=2.0)
        assert (await patient).batch_items == 2
    assert tight.closed_by == "deadline"
    assert 1.5 <= tight.queue_seconds <= 1.8


class Stubborn:
    """Never closes anything."""

    name = "stubborn"

    def size(self, view: Any) -> Any:
        return Size(4, 1.0)

    def close(self, view: Any) -> Any:
        return Hold(view.now + 0.005, 1_000_000)


@pytest.mark.parametrize(("count", "reason"), [(4, "full"), (1, "deadline")])
async def test_no_strategy_holds_a_full_batch_or_one_whose_deadline_is_near(count: int, reason: str) -> None:
    runner = Runner(fixed=0.2)
    config: dict[str, Any] = {"target_batch_size": 4, "max_batch_size": 4, "enable_adaptive_sizing": False}
    async with managed(runner, own={"strategy": Stubborn()}, **config) as manager:
        await asyncio.gather(*(ask(manager, Ask(), timeout=5) for _ in range(4)))
        runs = (manager.submit_detailed(Ask(n), timeout=2.0) for n in range(count))
        done = await asyncio.gather(*runs)
    assert {one.closed_by for one in done} == {reason}
