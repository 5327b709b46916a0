"""What bounds a batch, when a run is given up, and which runs are believed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.batching.wiring_support import BYTES_PER_NODE, Ask, Runner, Seen, ask, asking, managed, teach, turn, work_of

from dtesn_sidecar.batching.budget import SchedulingBudget
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.errors import DeadlineExceeded, InvalidInput, OutOfMemory, WorkerLost

pytestmark = pytest.mark.looptime(start=1000)


async def behind_a_run(manager: Any, runner: Runner, asks: list[Ask], **options: Any) -> list[Any]:
    """Submit all while one is computing, so that they are in the queue together. Returns what they ended with."""
    running = asking(manager, Ask("running"), timeout=300, direct=True)
    await turn()
    outcomes = await asyncio.gather(*(ask(manager, what, **options) for what in asks))
    await running
    assert runner.runs.pop(0).names == ["running"]
    return [outcome.value for outcome in outcomes]


def asks(count: int, **options: Any) -> list[Ask]:
    return [Ask(n, **options) for n in range(count)]


def results(count: int) -> list[object]:
    return [("result of", n) for n in range(count)]


async def test_a_batch_keeps_the_byte_cap_of_its_runner_and_fills_it() -> None:
    runner = Runner(fixed=0.1, cap=7 * BYTES_PER_NODE)
    async with managed(runner, strategy="fixed") as manager:
        assert await behind_a_run(manager, runner, asks(12, nodes=2), timeout=300) == results(12)
    assert [len(run.asks) for run in runner.runs] == [3, 3, 3, 3]


async def test_the_byte_cap_may_change_between_two_batches() -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, strategy="fixed") as manager:
        assert await behind_a_run(manager, runner, asks(8)) == results(8)
        assert [len(run.asks) for run in runner.runs] == [8]
        runner.runs.clear()
        runner.cap = 2 * BYTES_PER_NODE
        assert await behind_a_run(manager, runner, asks(8)) == results(8)
    assert [len(run.asks) for run in runner.runs] == [2, 2, 2, 2]


@pytest.mark.parametrize(("longest", "items"), [(0.28, 3), (10.0, 8)])
async def test_a_batch_is_filled_up_to_its_predicted_seconds(longest: float, items: int) -> None:
    runner = Runner(fixed=0.1, marginal=0.05)
    async with managed(runner, strategy="fixed", max_batch_seconds=longest) as manager:
        await teach(manager, runner, rounds=8, most_nodes=4)
        assert await behind_a_run(manager, runner, asks(24), timeout=300) == results(24)
    assert max(len(run.asks) for run in runner.runs) == items
    assert all(runner.seconds(run.asks) <= longest for run in runner.runs)


@pytest.mark.parametrize(("charge", "items"), [(None, 8), (12, 2), (40, 1)])
async def test_a_batch_is_filled_up_to_its_node_budget_as_charged(charge: int | None, items: int) -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, strategy="fixed", max_batch_nodes=32) as manager:
        assert await behind_a_run(manager, runner, asks(16, nodes=4, charge=charge)) == results(16)
    assert {len(run.asks) for run in runner.runs} == {items}


async def test_a_scheduling_budget_counts_nodes_as_charged() -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, own={"budget": SchedulingBudget(token_budget=32, max_num_seqs=8)}, strategy="fixed") as manager:
        assert await behind_a_run(manager, runner, asks(8, nodes=4, charge=16)) == results(8)
    assert {len(run.asks) for run in runner.runs} == {2}


async def test_every_member_of_a_batch_still_ends_within_its_deadline_as_predicted() -> None:
    runner = Runner(fixed=0.1, marginal=0.1)
    async with managed(runner, strategy="fixed", max_batch_wait_ms=10_000) as manager:
        await teach(manager, runner, rounds=8, most_nodes=4)
        running = asking(manager, Ask("running", nodes=2), timeout=300, direct=True)
        await turn()
        tight = asking(manager, Ask("tight"), priority=0, timeout=1.0)
        others = [asking(manager, Ask(n), timeout=300) for n in range(12)]
        assert (await tight).value == ("result of", "tight")
        await asyncio.gather(running, *others)
    first = next(run for run in runner.runs if "tight" in run.names)
    assert 2 <= len(first.asks) <= 6, "0.7 s were left, of which each takes 0.1 s"


@pytest.mark.parametrize("by_deadline", [False, True])
async def test_a_run_for_which_nobody_waits_any_more_is_given_up(by_deadline: bool) -> None:
    runner = Runner()
    async with managed(runner) as manager:
        running = asking(manager, Ask("for nobody", seconds=100.0), timeout=1.0 if by_deadline else 300.0)
        await asyncio.sleep(1.0)
        running.cancel()  # by its deadline it is over by now
        next_one = await ask(manager, Ask("next"), timeout=300)
    assert next_one.value == ("result of", "next")
    assert next_one.seconds == pytest.approx(1.0, abs=0.02), "the device was free at once"
    assert [run.names for run in runner.runs] == [["for nobody"], ["next"]]


async def test_one_who_goes_leaves_the_batch_and_the_others_stay() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner, strategy="fixed", max_batch_wait_ms=5) as manager:
        tasks = [asking(manager, what) for what in asks(4)]
        await asyncio.sleep(0.5)
        assert [run.names for run in runner.runs] == [[0, 1, 2, 3]]
        tasks[2].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await turn()
        assert len(runner.dropped) == 1
    assert [o.value for o in outcomes if not isinstance(o, BaseException)] == [("result of", n) for n in (0, 1, 3)]


async def test_a_baseline_run_is_abandoned_when_a_request_arrives() -> None:
    runner = Runner(fixed=0.5)
    async with managed(runner, own={"probe": lambda: (Ask("probe", seconds=100.0), Work())}) as manager:
        await asyncio.sleep(1.0)
        assert [run.names for run in runner.runs] == [["probe"]]
        arrived = await ask(manager, Ask("arrived"), timeout=300)
        assert arrived.value == ("result of", "arrived")
        assert arrived.seconds == pytest.approx(0.5, abs=0.02)
        assert manager.snapshot().baseline_samples == 1, "its own run of one, and not the one that was abandoned"


async def test_a_run_is_hung_after_ten_times_its_prediction_and_five_seconds() -> None:
    runner = Runner(fixed=2.0)
    async with managed(runner) as manager:
        await ask(manager, Ask("first"), timeout=300)
        assert runner.runs[0].hung_after == 305.0, "nothing was ever measured: 30 s are taken as the prediction"
        await teach(manager, runner, rounds=5)
        await ask(manager, Ask("second"), timeout=300)
    assert runner.runs[0].hung_after == pytest.approx(25.0, rel=0.05)


@pytest.mark.parametrize("error", [WorkerLost("died"), OutOfMemory("too large")])
async def test_a_worker_that_died_under_a_batch_is_treated_like_out_of_memory(error: Exception) -> None:
    runner = Runner(fixed=0.1, fails=lambda asks: error if len(asks) > 4 else None)
    async with managed(runner, strategy="fixed") as manager:
        assert await behind_a_run(manager, runner, asks(8)) == results(8)
        assert manager.snapshot().byte_cap == pytest.approx(4 * BYTES_PER_NODE, rel=0.1)
        runner.runs.clear()
        runner.fails = lambda asks: None
        assert await behind_a_run(manager, runner, asks(8)) == results(8)
        assert [len(run.asks) for run in runner.runs] == [4, 4]
        await asyncio.sleep(600)
        assert manager.snapshot().byte_cap is None or manager.snapshot().byte_cap > 8 * BYTES_PER_NODE


def poisoned(asks: list[Ask]) -> Exception | None:
    return ValueError("poison") if any(what.name == "poison" for what in asks) else None


def one_bad(what: Ask) -> object:
    return InvalidInput("bad") if what.name == "bad" else ("result of", what.name)


async def predicted_after(runner: Runner, change: Runner, asked: list[Ask]) -> tuple[float, float, int, int]:
    """What a request is predicted to take, and how many samples the baseline has, before and after a slow batch of these."""
    async with managed(runner, strategy="fixed", max_batch_wait_ms=5) as manager:
        await teach(manager, runner, rounds=10)
        before, samples = manager.predict(work_of(Ask())), manager.snapshot().baseline_samples
        runner.fixed, runner.fails, runner.result, runner.report_complete = (
            change.fixed,
            change.fails,
            change.result,
            change.report_complete,
        )
        await asyncio.gather(*(ask(manager, what, timeout=300) for what in asked))
        await turn()
        return before, manager.predict(work_of(Ask())), samples, manager.snapshot().baseline_samples


SLOW = Runner(fixed=5.0)


async def test_a_slow_run_is_believed_where_it_was_clean() -> None:
    before, after, samples, samples_after = await predicted_after(Runner(fixed=0.1), SLOW, [Ask("slow")])
    assert after > 1.05 * before
    assert samples_after == samples + 1


@pytest.mark.parametrize("items", [["bad"], ["bad", "good", "good"]])
async def test_a_run_in_which_an_item_failed_is_no_sample(items: list[str]) -> None:
    change = replace(SLOW, result=one_bad)
    before, after, samples, samples_after = await predicted_after(Runner(fixed=0.1), change, [Ask(name) for name in items])
    assert (after, samples_after) == (before, samples)


@pytest.mark.parametrize("items", [["one"], ["one", "two"]])
async def test_a_run_that_says_that_it_is_incomplete_is_no_sample(items: list[str]) -> None:
    change = replace(SLOW, report_complete=False)
    before, after, samples, samples_after = await predicted_after(Runner(fixed=0.1), change, [Ask(name) for name in items])
    assert (after, samples_after) == (before, samples)


@pytest.mark.parametrize("items", [["poison"], ["good", "poison"], ["good", "good", "poison", "good"]])
async def test_runs_that_take_a_failed_batch_apart_are_no_samples(items: list[str]) -> None:
    change = replace(SLOW, fails=poisoned)
    before, after, samples, samples_after = await predicted_after(Runner(fixed=0.1), change, [Ask(name) for name in items])
    assert (after, samples_after) == (before, samples)


async def test_no_run_of_a_bisection_begins_for_items_whose_deadline_has_passed() -> None:
    runner, seen = Runner(fixed=0.4, fails=lambda asks: ValueError("always")), Seen()
    async with managed(runner, seen, strategy="fixed", max_batch_wait_ms=5, enable_circuit_breaker=False) as manager:
        began = asyncio.get_running_loop().time()
        patient = asking(manager, Ask("patient"), timeout=300)
        tasks = [asking(manager, what, timeout=1.0) for what in asks(7)]
        outcomes = [outcome.value for outcome in await asyncio.gather(*tasks)]
        error = (await patient).value
        await turn()
    assert isinstance(error, ValueError)
    assert any(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
    late = [run.names for run in runner.runs if run.began > began + 0.999]
    assert late == [["patient"]], "only the one whose time is not over"
    assert seen.bisections[0].runs < 8
