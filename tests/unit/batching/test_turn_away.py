"""Refusing a request before its input is known: only where it would be refused whatever that is."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.unit.batching.wiring_support import Ask, Runner, Seen, ask, asking, managed, teach, turn

from dtesn_sidecar.errors import BreakerOpen, DTESNError, QueueFull

pytestmark = pytest.mark.looptime(start=1000)

PRIORITIES = st.integers(0, 2)
TIMEOUTS = st.sampled_from([0.5, 1.5, 3.0, 10.0, 100.0])
REQUESTS = st.tuples(st.integers(1, 4), PRIORITIES, TIMEOUTS, st.booleans())


async def shedding(manager: Any) -> list[asyncio.Task[Any]]:
    """One that computes for a second, and one that was refused beside it."""
    running = asking(manager, Ask("running"))
    await turn()
    assert isinstance((await ask(manager, Ask("hopeless"), timeout=0.01)).value, QueueFull)
    return [running]


async def teach_within(manager: Any, runner: Runner) -> None:
    for _ in range(5):
        outcome = await ask(manager, Ask(), timeout=10)
        assert not isinstance(outcome.value, DTESNError)
    runner.runs.clear()
    await turn()


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@given(st.lists(REQUESTS, max_size=30), REQUESTS, st.sampled_from([4, 16, 1024]), st.sampled_from([6, 1_000_000]), st.integers(1, 3))
async def test_whoever_is_turned_away_would_have_been_refused_whatever_he_asked(
    queued: list[tuple[int, int, float, bool]], request: tuple[int, int, float, bool], most: int, most_nodes: int, limit: int
) -> None:
    runner = Runner(fixed=0.5, marginal=0.1)
    sizes = {"min_batch_size": 1, "target_batch_size": limit, "max_batch_size": limit}
    async with managed(runner, max_queue_size=most, max_queue_nodes=most_nodes, **sizes) as manager:
        await teach(manager, runner, most_nodes=3)
        tasks = await shedding(manager)
        for nodes, priority, timeout, direct in queued:
            tasks.append(asking(manager, Ask(nodes=nodes), priority=priority, timeout=timeout, direct=direct))
            await asyncio.sleep(0)
        nodes, priority, timeout, direct = request
        error = manager.turn_away(priority, timeout, direct=direct)
        asked = asking(manager, Ask(nodes=nodes), priority=priority, timeout=timeout, direct=direct)
        await asyncio.sleep(0)
        if error is not None:
            assert error.retry_after >= 1.0
            assert isinstance(asked.result().value, type(error))
        await ended([*tasks, asked])


async def test_a_request_that_is_hopeless_by_its_deadline_alone_is_turned_away_and_counted() -> None:
    runner, seen = Runner(fixed=1.0), Seen()
    async with managed(runner, seen) as manager:
        await teach(manager, runner, rounds=5)
        tasks = await shedding(manager)
        error = manager.turn_away(1, 0.5)
        assert isinstance(error, QueueFull)
        assert "beyond 0.9 of the deadline of 0.500 s" in error.detail
        assert [(event.reason, event.priority, event.status) for event in seen.refusals] == [("deadline", 1, 429)] * 2
        assert manager.turn_away(1, 5.0) is None
        assert len(seen.refusals) == 2
        await ended(tasks)


async def test_a_full_queue_turns_away_those_who_can_displace_nobody() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner, max_queue_size=2, target_batch_size=1, max_batch_size=1) as manager:
        await teach(manager, runner, rounds=5)
        tasks = await shedding(manager)
        tasks += [asking(manager, Ask(), priority=1, timeout=100), asking(manager, Ask(), priority=1, timeout=100)]
        await turn()
        assert "2 requests are queued" in manager.turn_away(1, 100.0).detail
        assert manager.turn_away(2, 100.0) is not None
        assert manager.turn_away(0, 100.0) is None
        await ended(tasks)


async def test_while_nothing_is_refused_nobody_is_turned_away() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=5)
        running = asking(manager, Ask("running"))
        await turn()
        assert manager.turn_away(1, 0.01) is None, "the first refusal is for submit to make"
        tasks = await shedding(manager)
        assert manager.turn_away(1, 0.01) is not None
        await ended([running, *tasks])
        await asyncio.sleep(1.5)
        assert manager.turn_away(1, 0.01) is None


async def test_a_timeout_out_of_range_is_left_to_submit_which_says_so() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner, max_queue_size=1, max_timeout=10.0) as manager:
        await teach_within(manager, runner)
        tasks = await shedding(manager)
        assert manager.turn_away(1, 10.5) is None
        await ended(tasks)


async def test_with_both_breakers_open_the_error_is_the_breakers() -> None:
    runner = Runner(fixed=0.1, fails=lambda asks: RuntimeError("broken"))
    async with managed(runner, failure_threshold=1, circuit_breaker_timeout=60) as manager:
        for direct in (False, True):
            await ask(manager, Ask(), direct=direct)
        refused = await ask(manager, Ask())
        assert isinstance(refused.value, BreakerOpen)
        assert manager.turn_away(1, 1.0) is None, "that says nothing of load, so that each request is looked at"


async def test_before_the_start_and_after_the_end_nobody_is_turned_away() -> None:
    manager = managed(Runner())
    assert manager.turn_away(1, 1.0) is None
    async with manager:
        pass
    assert manager.turn_away(1, 1.0) is None
