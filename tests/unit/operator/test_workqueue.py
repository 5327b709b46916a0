"""The queue of keys: each once, one worker at a time, back after a failure with growing delays. Virtual time."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_operator.workqueue import FIRST_DELAY, MOST_DELAY, WorkQueue, backoff

pytestmark = pytest.mark.looptime


def queue() -> WorkQueue[str]:
    return WorkQueue(lambda: 0.0)


async def taken(waiting: WorkQueue[str], seconds: float) -> str | None:
    """The next key within so many seconds, or None."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await waiting.take()
    return None


async def test_a_key_that_is_added_twice_is_worked_on_once() -> None:
    waiting = queue()
    waiting.add("a")
    waiting.add("a")
    assert await waiting.take() == "a"
    waiting.done("a")
    assert await taken(waiting, 100) is None


async def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    waiting = queue()
    for key in "abc":
        waiting.add(key)
    assert [await waiting.take() for _ in range(3)] == ["a", "b", "c"]


async def test_a_key_added_during_its_work_comes_again_and_not_to_a_second_worker() -> None:
    waiting = queue()
    waiting.add("a")
    await waiting.take()
    waiting.add("a")
    assert await taken(waiting, 100) is None
    waiting.done("a")
    assert await taken(waiting, 0.1) == "a"


async def test_failures_in_a_row_wait_ever_longer_and_a_success_starts_anew() -> None:
    waiting, loop = queue(), asyncio.get_running_loop()
    waiting.add("a")
    waits = []
    for _ in range(14):
        await waiting.take()
        failed = loop.time()
        waiting.failed("a")
        assert await taken(waiting, 1000) == "a"
        waits.append(round(loop.time() - failed, 6))
        waiting._working.discard("a")
        waiting.add("a")
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(FIRST_DELAY, abs=0.01)
    assert waits[-1] == pytest.approx(MOST_DELAY, abs=0.01)
    await waiting.take()
    waiting.done("a")
    waiting.add("a")
    await waiting.take()
    failed = loop.time()
    waiting.failed("a")
    assert await taken(waiting, 1000) == "a"
    assert loop.time() - failed == pytest.approx(FIRST_DELAY, abs=0.01)


async def test_a_failed_key_waits_at_least_as_long_as_the_server_asked() -> None:
    waiting, loop = queue(), asyncio.get_running_loop()
    waiting.add("a")
    await waiting.take()
    waiting.failed("a", after=7.0)
    assert await taken(waiting, 100) == "a"
    assert loop.time() == pytest.approx(7.0, abs=0.01)


async def test_of_two_delays_the_earlier_counts_and_an_event_counts_before_both() -> None:
    waiting, loop = queue(), asyncio.get_running_loop()
    waiting.add_after("a", 5)
    waiting.add_after("a", 2)
    waiting.add_after("a", 9)
    assert await taken(waiting, 100) == "a"
    assert loop.time() == pytest.approx(2, abs=0.01)
    waiting.done("a")
    waiting.add_after("a", 50)
    waiting.add("a")
    assert await taken(waiting, 0.1) == "a"
    waiting.done("a")
    assert await taken(waiting, 100) is None


async def test_several_workers_are_woken_by_several_keys() -> None:
    waiting = queue()
    workers = [asyncio.create_task(waiting.take()) for _ in range(3)]
    await asyncio.sleep(1)
    for key in "abc":
        waiting.add(key)
    assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


async def test_nothing_is_left_after_clear() -> None:
    waiting = queue()
    waiting.add("a")
    waiting.add_after("b", 1)
    waiting.clear()
    assert await taken(waiting, 100) is None


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_delay_is_bounded_and_never_shrinks_with_failures(failures: int, jitter: float) -> None:
    assert FIRST_DELAY <= backoff(failures, jitter) <= backoff(failures + 1, jitter) <= MOST_DELAY * 1.25
