"""Batches in threads of the test's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.batching.protocols import Entry, WorkerHung
from dtesn_sidecar.compute import drive as driving
from dtesn_sidecar.compute import inline
from dtesn_sidecar.compute.inline import ThreadRunner
from dtesn_sidecar.compute.job import Job, work_of
from dtesn_sidecar.errors import ComputeFailed, OutOfMemory, WorkerLost
from dtesn_sidecar.model.backend import ArrayBackend, NumPyBackend
from dtesn_sidecar.model.inputs import parse_input

LONG = 250.0


@pytest.fixture
async def runner(model: ModelConfiguration, folder_of: Callable[[int], Path]) -> AsyncIterator[ThreadRunner]:
    runner = ThreadRunner(model, folder_of, [NumPyBackend()])
    await runner.start()
    yield runner
    await runner.stop()
    left = [thread for thread in threading.enumerate() if thread.name.startswith("dtesn-compute")]
    for thread in left:  # one that hung was abandoned, and ends as soon as it is let go
        await asyncio.to_thread(thread.join, LONG)
    assert not any(thread.is_alive() for thread in left)


def entries(model: ModelConfiguration, *texts: str, size: int = 32) -> list[Entry]:
    jobs = [Job(parse_input(text), 3, size) for text in texts]
    return [Entry(number, job, work_of(model, job)) for number, job in enumerate(jobs, 1)]


class Gate:
    """Holds every slice until it is opened; says when the first began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.open = threading.Event(), threading.Event()
        real = driving.drive

        def drive(reservoir: Any, tasks: Any, dropped: Any, *rest: Any, **options: Any) -> Any:
            self.began.set()
            self.open.wait(LONG)
            return real(reservoir, tasks, lambda: dropped(), *rest, **options)

        monkeypatch.setattr(inline, "drive", drive)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.began.wait, LONG)


async def test_every_entry_gets_its_own_result(runner: ThreadRunner, model: ModelConfiguration) -> None:
    got: dict[int, Any] = {}
    report = await runner.run(entries(model, "a", "bcd", "ef"), got.__setitem__, hung_after=LONG)
    assert {identity: value.shape for identity, value in got.items()} == {1: (3, 2, 32), 2: (3, 2, 32), 3: (3, 2, 32)}
    assert (report.nodes, report.levels, report.complete) == (6, 3, True)


async def test_results_are_told_before_the_run_ends_and_on_the_event_loop(runner: ThreadRunner, model: ModelConfiguration) -> None:
    threads = []
    await runner.run(entries(model, "a", "b"), lambda *_: threads.append(threading.current_thread()), hung_after=LONG)
    assert threads == [threading.main_thread()] * 2


async def test_sizes_do_not_mix(runner: ThreadRunner, model: ModelConfiguration) -> None:
    for size in (32, 64, 32):
        got: dict[int, Any] = {}
        await runner.run(entries(model, "a", size=size), got.__setitem__, hung_after=LONG)
        assert got[1].shape == (3, 2, size)


async def test_running_out_of_memory_fails_the_batch_as_such_and_the_thread_goes_on(
    runner: ThreadRunner, model: ModelConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(inline, "drive", no_memory)
        with pytest.raises(OutOfMemory):
            await runner.run(entries(model, "a"), lambda *_: None, hung_after=LONG)
    assert (await runner.run(entries(model, "a"), lambda *_: None, hung_after=LONG)).complete


async def test_any_other_exception_fails_the_batch_with_its_text(
    runner: ThreadRunner, model: ModelConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device fell off")

    monkeypatch.setattr(inline, "drive", broken)
    with pytest.raises(ComputeFailed, match="RuntimeError: the device fell off"):
        await runner.run(entries(model, "a"), lambda *_: None, hung_after=LONG)


async def test_a_hung_thread_is_abandoned_and_replaced(
    runner: ThreadRunner, model: ModelConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[int] = []
    with monkeypatch.context() as patch:
        gate = Gate(patch)
        with pytest.raises(WorkerHung):
            await runner.run(entries(model, "a"), lambda identity, _: late.append(identity), hung_after=0.01)
    assert runner.restarts == 1
    got: dict[int, Any] = {}
    await runner.run(entries(model, "b"), got.__setitem__, hung_after=LONG)
    gate.open.set()
    await runner.run(entries(model, "c"), got.__setitem__, hung_after=LONG)
    assert list(got) == [1]
    assert late == [], "an abandoned run answered"


async def test_a_cancelled_run_tells_nothing_and_the_thread_goes_on(
    runner: ThreadRunner, model: ModelConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[int] = []
    with monkeypatch.context() as patch:
        gate = Gate(patch)
        run = asyncio.ensure_future(runner.run(entries(model, "abc"), lambda identity, _: late.append(identity), hung_after=LONG))
        await gate.reached()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        gate.open.set()
    assert (await runner.run(entries(model, "a"), lambda *_: None, hung_after=LONG)).complete
    assert late == []


async def test_a_dropped_entry_has_no_result(runner: ThreadRunner, model: ModelConfiguration, monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[int, Any] = {}
    with monkeypatch.context() as patch:
        gate = Gate(patch)
        run = asyncio.ensure_future(runner.run(entries(model, "abc", "abcd"), got.__setitem__, hung_after=LONG))
        await gate.reached()
        assert runner.drop([2, 77])
        assert not runner.drop([77])
        gate.open.set()
        report = await run
    assert list(got) == [1]
    assert not report.complete


async def test_stopping_fails_the_run_under_way_and_twice_is_once(
    runner: ThreadRunner, model: ModelConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    run = asyncio.ensure_future(runner.run(entries(model, "abc"), lambda *_: None, hung_after=LONG))
    await gate.reached()
    stopping = asyncio.ensure_future(runner.stop())
    with pytest.raises(WorkerLost):
        await run
    gate.open.set()
    await stopping
    await runner.stop()
    with pytest.raises(WorkerLost):
        await runner.run(entries(model, "abc"), lambda *_: None, hung_after=LONG)


class Card(ArrayBackend):
    """A device of array-api-strict in place of a GPU: whatever crosses over to another raises."""

    def __init__(self, name: str) -> None:
        host = array_api_strict.Device("CPU_DEVICE")
        super().__init__(
            array_api_strict,
            array_api_strict.Device(name),
            name="array-api-strict",
            description=name,
            to_host=lambda array: np.asarray(array_api_strict.asarray(array, device=host)),
            use=lambda: self.used_by.append(threading.current_thread().name),
        )
        self.used_by: list[str] = []


async def test_every_device_has_a_thread_of_its_own_and_they_compute_at_the_same_time(
    model: ModelConfiguration, folder_of: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [Card("device1"), Card("device2")]
    together = threading.Barrier(2)
    real = driving.drive

    def drive(*arguments: Any, **options: Any) -> Any:
        together.wait(LONG)  # passed only where both are computing
        return real(*arguments, **options)

    monkeypatch.setattr(inline, "drive", drive)
    runner = ThreadRunner(model, folder_of, cards)
    await runner.start()
    try:
        assert runner.workers == 2
        batches = [entries(model, "the one", "batch"), entries(model, "and the", "other")]
        got: list[dict[int, Any]] = [{}, {}]
        reports = await asyncio.gather(*(runner.run(b, g.__setitem__, hung_after=LONG) for b, g in zip(batches, got, strict=True)))
    finally:
        await runner.stop()
    assert {report.worker for report in reports} == {0, 1}
    assert [card.used_by for card in cards] == [["dtesn-compute-0"], ["dtesn-compute-1"]]
    monkeypatch.undo()
    alone = ThreadRunner(model, folder_of, [NumPyBackend()])
    await alone.start()
    try:
        for batch, found in zip(batches, got, strict=True):
            expected: dict[int, Any] = {}
            await alone.run(batch, expected.__setitem__, hung_after=LONG)
            for identity, value in expected.items():
                np.testing.assert_allclose(found[identity], value, atol=1e-5)
    finally:
        await alone.stop()


async def test_results_equal_those_of_another_size_after_it_was_forgotten(runner: ThreadRunner, model: ModelConfiguration) -> None:
    first: dict[int, Any] = {}
    second: dict[int, Any] = {}
    await runner.run(entries(model, "abc", size=64), first.__setitem__, hung_after=LONG)
    runner.forget(64)
    await runner.run(entries(model, "abc", size=64), second.__setitem__, hung_after=LONG)
    np.testing.assert_allclose(first[1], second[1], atol=2e-6)  # sums of slices, whose lengths are a matter of time
