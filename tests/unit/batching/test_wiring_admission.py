"""What the manager refuses, what it drops at dispatch, and what it says about coming back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from typing import Any

import pytest
from tests.unit.batching.wiring_support import Ask, Runner, Seen, ask, asking, managed, teach, turn, work_of

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.errors import DeadlineExceeded, QueueFull

pytestmark = pytest.mark.looptime(start=1000)


async def test_a_request_whose_predicted_finish_passes_nine_tenths_of_its_deadline_is_refused_at_once() -> None:
    runner, seen = Runner(fixed=1.0), Seen()
    async with managed(runner, seen) as manager:
        await teach(manager, runner, rounds=5)
        running = asking(manager, Ask("running"))
        await turn()
        hopeless, possible = asking(manager, Ask("hopeless"), timeout=2.1), asking(manager, Ask("possible"), timeout=2.6)
        outcome = await hopeless
        assert isinstance(outcome.value, QueueFull), "its finish after 2 s is beyond 0.9 of 2.1 s"
        assert outcome.seconds == 0.0
        assert outcome.value.retry_after is not None
        assert outcome.value.retry_after >= 1.0
        assert [(event.reason, event.status) for event in seen.refusals] == [("deadline", 429)]
        assert (await possible).value == ("result of", "possible")
        await running


async def test_where_finishes_overrun_their_prediction_fewer_are_accepted_and_those_in_time() -> None:
    """A device whose speed wanders, at twice its capacity: half of what is predicted to be just in time would be late."""
    rng, seen = random.Random(3), Seen()
    speeds = [rng.lognormvariate(0.0, 0.25) for _ in range(1000)]
    loop = asyncio.get_running_loop()
    runner = Runner(fixed=0.1, slowdown=lambda running: speeds[int(loop.time() / 4.0) % len(speeds)])
    async with managed(runner, seen, target_batch_size=1, max_batch_size=1) as manager:
        tasks = []
        for number in range(8000):
            tasks.append(asking(manager, Ask(number), timeout=4.0))
            await asyncio.sleep(0.05)
        outcomes = await asyncio.gather(*tasks)
    accepted = [outcome.value for outcome in outcomes[2000:] if not isinstance(outcome.value, QueueFull)]
    assert len(accepted) > 2500, "the device is not left idle for it"
    assert sum(isinstance(value, DeadlineExceeded) for value in accepted) < 0.05 * len(accepted)


@pytest.mark.parametrize("how", ["cancelled", "expired", "left out"])
async def test_a_batch_that_nobody_waits_for_any_more_is_no_reason_to_refuse_the_next(how: str) -> None:
    runner = Runner(fixed=1.0, slice=0.02)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=5)
        long = asking(manager, Ask("long", levels=100), timeout=2.0 if how == "expired" else 300.0)
        await turn()
        if how == "cancelled":
            long.cancel()
        elif how == "left out":
            runner.leave_out("long")
        await asyncio.wait([long])
        assert runner.running == 1, "the slice under way has not ended yet"
        if how != "cancelled":
            error = long.result().value
            assert isinstance(error, DeadlineExceeded)
            assert error.retry_after is not None
            assert error.retry_after < 2.0
        assert (await ask(manager, Ask("next"), timeout=2.0)).value == ("result of", "next")


@pytest.mark.parametrize("how", ["cancelled", "left out"])
async def test_where_the_longest_of_a_batch_is_gone_the_next_waits_for_the_others(how: str) -> None:
    runner = Runner(fixed=1.0, slice=0.02)
    async with managed(runner, strategy="fixed", target_batch_size=2) as manager:
        await teach(manager, runner, rounds=5)
        long, short = asking(manager, Ask("long", levels=50), timeout=300.0), asking(manager, Ask("short", levels=10), timeout=300.0)
        await asyncio.sleep(2.0)
        assert runner.runs[-1].names == ["long", "short"]
        assert isinstance((await ask(manager, Ask("next"), timeout=15.0)).value, QueueFull), "it would be after 49 s"
        if how == "cancelled":
            long.cancel()
        else:
            runner.leave_out("long")
        await turn()
        early, next_ = asking(manager, Ask("early"), timeout=7.0), asking(manager, Ask("next"), timeout=15.0)
        assert isinstance((await early).value, QueueFull), "it would be after 9 s"
        assert (await short).value == ("result of", "short")
        assert (await next_).value == ("result of", "next")


async def test_a_baseline_run_that_gave_way_is_no_reason_to_refuse_the_second_of_two() -> None:
    runner = Runner(fixed=0.001, slice=0.005)
    probe = Ask("probe", levels=100)
    async with managed(runner, own={"probe": lambda: (probe, work_of(probe))}) as manager:
        await asyncio.sleep(0.105)
        assert [run.names for run in runner.runs] == [["probe"], ["probe"]], "the second one has 95 ms to go"
        outcomes = await asyncio.gather(*(ask(manager, Ask(name), timeout=0.05) for name in ("first", "second")))
        assert [outcome.value for outcome in outcomes] == [("result of", "first"), ("result of", "second")]


async def test_a_plain_function_is_waited_for_to_its_end_whoever_is_gone() -> None:
    async def process(items: list[object]) -> list[object]:
        await asyncio.sleep(max(float(str(item)) for item in items))
        return items

    def levels(item: object) -> Work:
        return Work(levels=int(str(item)))

    config = BatchConfiguration(max_request_seconds=1000.0)
    async with DynamicBatchManager(config, process=process, cost=levels) as manager:
        await manager.submit(1)
        long = asyncio.create_task(manager.submit(100, timeout=300.0))
        await turn()
        long.cancel()
        await turn()
        with pytest.raises(QueueFull):
            await manager.submit(1, timeout=50.0)
        assert await manager.submit(1, timeout=200.0) == 1


async def test_an_idle_device_takes_whatever_is_asked_of_it_so_that_a_pessimistic_prediction_is_refuted() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=5)
        runner.fixed = 0.1
        assert (await ask(manager, Ask("quick"), timeout=0.5)).value == ("result of", "quick")


async def test_what_can_no_longer_finish_in_time_is_dropped_at_dispatch_and_never_computed() -> None:
    runner, seen = Runner(fixed=1.0), Seen()
    async with managed(runner, seen) as manager:
        await teach(manager, runner, rounds=5)
        running = asking(manager, Ask("longer than predicted", seconds=5.0))
        await turn()
        late, patient = asking(manager, Ask("late"), timeout=5.5), asking(manager, Ask("patient"), timeout=60)
        outcome = await late
        assert isinstance(outcome.value, DeadlineExceeded)
        assert outcome.seconds == pytest.approx(5.0, abs=0.02), "at dispatch, not at its deadline"
        assert (await patient).value == ("result of", "patient")
        assert seen.missed == ["dispatch"]
        assert [run.names for run in runner.runs] == [["longer than predicted"], ["patient"]]
        await running


async def test_a_queue_that_holds_its_nodes_refuses_the_next_by_their_charge() -> None:
    runner, seen = Runner(fixed=1.0), Seen()
    async with managed(runner, seen, max_queue_nodes=10) as manager:
        running = asking(manager, Ask("running"))
        await turn()
        queued = asking(manager, Ask("queued", nodes=1, charge=6))
        await turn()
        refused = await ask(manager, Ask("refused", nodes=1, charge=6))
        assert isinstance(refused.value, QueueFull)
        assert [event.reason for event in seen.refusals] == ["queue_nodes"]
        assert (await ask(manager, Ask("fits", nodes=1, charge=4))).value == ("result of", "fits")
        await asyncio.gather(running, queued)


async def test_an_arrival_displaces_by_its_charge_the_newest_of_the_lowest_class_and_no_more_than_it_needs() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner, max_queue_nodes=12) as manager:
        running = asking(manager, Ask("running"))
        await turn()
        low = [asking(manager, Ask(n, charge=4), priority=2) for n in range(3)]
        await turn()
        urgent = asking(manager, Ask("urgent", charge=6), priority=0)
        await turn()
        assert [task.done() for task in low] == [False, True, True]
        assert manager.snapshot().pending == 2
        kept, *displaced, urgent_one = [outcome.value for outcome in await asyncio.gather(*low, urgent)]
        assert [kept, urgent_one] == [("result of", 0), ("result of", "urgent")]
        assert all(isinstance(error, QueueFull) for error in displaced)
        await running


async def test_the_backlog_is_bounded_by_what_a_drain_can_finish() -> None:
    """A request of high priority may be served in time itself, and yet leave more than `max_timeout` queued in all."""
    runner, seen = Runner(fixed=1.0), Seen()
    config = {"max_timeout": 10.0, "target_batch_size": 1, "max_batch_size": 1, "aging_ms": 100_000.0}
    async with managed(runner, seen, **config) as manager:
        await teach_within(manager, runner)
        running = asking(manager, Ask("running"))
        await turn()
        tasks = []
        for priority in (2, 0):
            for n in range(12):
                tasks.append(asking(manager, Ask((priority, n)), priority=priority, timeout=10.0))
                await turn()
        assert manager.snapshot().predicted_wait_seconds <= 11.0
        assert {event.reason for event in seen.refusals if event.priority == 0} == {"backlog"}
        await asyncio.gather(running, *tasks)


async def teach_within(manager: object, runner: Runner) -> None:
    for _ in range(5):
        await ask(manager, Ask(), timeout=10.0)
    runner.runs.clear()


async def test_the_configured_default_timeout_holds_for_a_request_that_names_none() -> None:
    async with managed(Runner(fixed=60.0), default_timeout=2.0) as manager:
        assert manager.snapshot().default_timeout_seconds == 2.0
        outcome = await ask(manager, Ask())
    assert isinstance(outcome.value, DeadlineExceeded)
    assert outcome.seconds == pytest.approx(2.0, abs=0.02)


async def test_a_displaced_request_is_told_to_come_back_when_the_device_will_be_free() -> None:
    runner = Runner(fixed=20.0)
    async with managed(runner, max_queue_size=1) as manager:
        await teach(manager, runner, rounds=3)
        running = asking(manager, Ask("running"), timeout=300)
        await turn()
        displaced = asking(manager, Ask("displaced"), priority=2, timeout=300)
        await turn()
        urgent = asking(manager, Ask("urgent"), priority=0, timeout=300)
        error = (await displaced).value
        assert isinstance(error, QueueFull)
        assert error.retry_after is not None
        assert error.retry_after >= 19.0
        await asyncio.gather(running, urgent)


async def test_a_request_that_expires_is_told_to_come_back_when_the_device_will_be_free() -> None:
    runner = Runner(fixed=20.0)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=3)
        running = asking(manager, Ask("longer than predicted", seconds=70.0), timeout=300)
        await turn()
        expires = asking(manager, Ask("expires"), timeout=50)
        await asyncio.sleep(40)
        late = asking(manager, Ask("late"), timeout=300)
        error = (await expires).value
        assert isinstance(error, DeadlineExceeded)
        assert error.retry_after is not None
        assert error.retry_after >= 2.0, "a run past its prediction is given a tenth of it more"
        await asyncio.gather(running, late)


async def test_a_request_dropped_at_dispatch_is_told_to_come_back_when_the_run_begun_in_its_stead_is_over() -> None:
    runner = Runner(fixed=20.0)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=3)
        running = asking(manager, Ask("longer than predicted", seconds=60.0), timeout=300)
        await turn()
        late, patient = asking(manager, Ask("late"), timeout=65.0), asking(manager, Ask("patient"), timeout=300)
        error = (await late).value
        assert isinstance(error, DeadlineExceeded)
        assert error.retry_after is not None
        assert error.retry_after >= 19.0
        await asyncio.gather(running, patient)


@pytest.mark.parametrize("shed", [None, "expired", "refused"])
async def test_the_adaptive_timeout_is_frozen_while_requests_are_shed_and_learns_otherwise(shed: str | None) -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, min_timeout=0.001) as manager:
        for _ in range(100):
            await ask(manager, Ask("quick"))
        learned = manager.default_timeout()
        assert learned == pytest.approx(0.4, rel=0.1)
        for _ in range(60):
            if shed == "expired":
                assert isinstance((await ask(manager, Ask("expires", seconds=5.0), timeout=0.05)).value, DeadlineExceeded)
                await turn()
            slow = asking(manager, Ask("slow", seconds=0.8), timeout=30)
            await turn()
            if shed == "refused":
                assert isinstance((await ask(manager, Ask("refused"), timeout=0.01)).value, QueueFull)
            assert (await slow).value == ("result of", "slow")
        frozen = manager.default_timeout()
    assert (frozen == learned) is (shed is not None)


async def test_refusals_and_missed_deadlines_leave_no_garbage() -> None:
    """Under overload an error that is a cycle of objects costs more than all else about it."""

    async def ended(manager: Any, seconds: float) -> None:
        with contextlib.suppress(QueueFull, DeadlineExceeded):
            await manager.submit(Ask(), timeout=seconds)

    runner, seen = Runner(fixed=1.0), Seen()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        async with managed(runner, seen) as manager:
            await teach(manager, runner, rounds=5)
            for _ in range(3):
                runner.fixed = 30.0  # slower than was predicted, so that what is accepted beside it is too late
                running = asking(manager, Ask("running"), timeout=100)
                await turn()
                await asyncio.gather(*(ended(manager, seconds) for seconds in [0.1] * 100 + [15.0] * 100))
                runner.fixed = 1.0
                await running
                await teach(manager, runner, rounds=40)
            gc.collect()
        assert len(seen.refusals) >= 300
        assert len(seen.missed) >= 30
        assert [each for each in gc.garbage if isinstance(each, Exception)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
