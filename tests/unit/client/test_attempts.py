"""The loop over attempts, in virtual time: pauses, deadlines, slots and what is raised in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from dtesn_api.wire import ProblemDocument
from dtesn_sidecar.client.attempts import call
from dtesn_sidecar.client.errors import ConnectionFailed, InvalidInput, Overloaded, TimedOut, of_document
from dtesn_sidecar.client.retries import Budget, RetryPolicy

pytestmark = pytest.mark.looptime


def problem(status: int, retry_after: float | None = None) -> Exception:
    return of_document(ProblemDocument(title="", status=status, code="code", detail="detail"), retry_after=retry_after)


class Scripted:
    """Attempts with the given outcomes, one after the other; when each began and what it was told of the time left."""

    def __init__(self, *outcomes: object, seconds: float = 0.0) -> None:
        self._outcomes, self._seconds = list(outcomes), seconds
        self.began: list[float] = []
        self.left: list[float | None] = []

    async def __call__(self, left: float | None) -> object:
        self.began.append(asyncio.get_running_loop().time())
        self.left.append(left)
        await asyncio.sleep(self._seconds)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def run(
    attempt: Callable, *, policy: RetryPolicy | None = None, within: float | None = None, slots: asyncio.Semaphore | None = None, **more
) -> object:
    policy = policy or RetryPolicy(base_seconds=1.0)
    deadline = None if within is None else asyncio.get_running_loop().time() + within
    budget = more.pop("budget", Budget(policy))
    return await call(
        attempt, policy=policy, budget=budget, slots=slots or asyncio.Semaphore(1), deadline=deadline, random_share=lambda: 0.5, **more
    )


async def test_a_success_is_the_outcome_at_once() -> None:
    attempt = Scripted("answer")
    assert await run(attempt) == "answer"
    assert attempt.left == [None]


async def test_the_pauses_are_what_the_server_asked_for_and_the_back_off() -> None:
    attempt = Scripted(problem(429, 3.0), problem(503), ConnectionFailed("refused", sent=False), "answer")
    assert await run(attempt) == "answer"
    assert attempt.began == pytest.approx([0.0, 3.5, 4.5, 6.5])


async def test_one_deadline_covers_all_attempts_and_each_is_told_what_is_left() -> None:
    attempt = Scripted(problem(429, 3.0), "answer", seconds=1.0)
    assert await run(attempt, within=10.0) == "answer"
    assert attempt.left == pytest.approx([10.0, 5.5])


async def test_an_attempt_beyond_the_deadline_is_cut_off_and_its_predecessor_is_the_cause() -> None:
    attempt = Scripted(problem(429, 1.0), "too late", seconds=3.0)
    with pytest.raises(TimedOut, match="after 2 attempts") as caught:
        await run(attempt, within=5.0)
    assert asyncio.get_running_loop().time() == pytest.approx(5.0)
    assert caught.value.attempts == 2
    assert isinstance(caught.value.__cause__, Overloaded)
    assert isinstance(caught.value, TimeoutError)


async def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    with pytest.raises(Overloaded) as caught:
        await run(Scripted(problem(429, 20.0)), within=10.0)
    assert asyncio.get_running_loop().time() == 0.0
    assert "the deadline would have passed" in caught.value.__notes__[0]


async def test_the_last_failure_is_raised_with_the_number_of_attempts() -> None:
    with pytest.raises(ConnectionFailed) as caught:
        await run(Scripted(*(ConnectionFailed(f"number {n}", sent=True) for n in range(9))), policy=RetryPolicy(attempts=3))
    assert str(caught.value) == "number 2"
    assert caught.value.attempts == 3


async def test_what_is_wrong_with_the_request_is_raised_at_once() -> None:
    attempt = Scripted(problem(422))
    with pytest.raises(InvalidInput):
        await run(attempt)
    assert attempt.began == [0.0]


async def test_the_budget_is_shared_and_stops_retries_for_all() -> None:
    policy = RetryPolicy(attempts=100, total_seconds=1000, budget_burst=4, budget_ratio=0)
    budget = Budget(policy)
    attempts = [Scripted(*(problem(503) for _ in range(50))) for _ in range(3)]
    slots = asyncio.Semaphore(3)
    outcomes = await asyncio.gather(*(run(a, policy=policy, budget=budget, slots=slots) for a in attempts), return_exceptions=True)
    assert all(isinstance(outcome, BaseException) and "budget is used up" in outcome.__notes__[0] for outcome in outcomes)
    assert sum(len(attempt.began) for attempt in attempts) == 3 + 4


async def test_a_pause_holds_no_slot() -> None:
    slots = asyncio.Semaphore(1)
    paused = asyncio.create_task(run(Scripted(problem(429, 10.0), "late"), slots=slots))
    await asyncio.sleep(1)
    assert await run(Scripted("between"), slots=slots) == "between"
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)
    assert await paused == "late"


async def test_waiting_for_a_slot_counts_against_the_deadline() -> None:
    slots = asyncio.Semaphore(1)
    async with slots:
        with pytest.raises(TimedOut, match="after 0 attempts"):
            await run(Scripted("never"), within=2.0, slots=slots)


async def test_an_outcome_that_is_still_read_keeps_its_slot() -> None:
    slots = asyncio.Semaphore(1)
    async with AsyncExitStack() as stays:
        assert await run(Scripted("stream"), slots=slots, stays=stays) == "stream"
        assert slots.locked()
    assert not slots.locked()


async def test_a_cancelled_call_gives_its_slot_back() -> None:
    slots = asyncio.Semaphore(1)
    task = asyncio.create_task(run(Scripted("never", seconds=100.0), slots=slots))
    await asyncio.sleep(1)
    assert slots.locked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not slots.locked()
