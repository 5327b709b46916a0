from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.compute import drive as driving
from dtesn_sidecar.compute.drive import Finished, Reservoirs, Task, drive, summarise
from dtesn_sidecar.compute.messages import Report
from dtesn_sidecar.errors import ComputeFailed, DeadlineExceeded
from dtesn_sidecar.model.backend import NumPyBackend
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.readout.value import OutputLayer
from dtesn_sidecar.model.reservoir import Reservoir
from dtesn_sidecar.model.trees import Tree

Folders = Callable[[int], Path]


@pytest.fixture
def reservoirs(model: ModelConfiguration) -> Reservoirs:
    return Reservoirs(model, NumPyBackend())


@pytest.fixture
def reservoir(reservoirs: Reservoirs, folder_of: Folders) -> Reservoir:
    return reservoirs.get(32, 3, folder_of(32))


@pytest.fixture(autouse=True)
def slices_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "SLICE_SECONDS", 0.0)


def task(identity: int, text: str, depth: int = 3, *, summary: bool = False, seconds: float | None = None) -> Task:
    return Task(identity, parse_input(text), depth, "summary" if summary else "features", seconds)


def run(reservoir: Reservoir, tasks: list[Task], dropped: Iterable[list[int]] = ()) -> tuple[list[Finished], Report]:
    told: list[Finished] = []
    looks = iter(dropped)
    last, report = drive(reservoir, tasks, lambda: next(looks, []), told.append, lambda: 7)
    return [*told, last], report


def test_items_are_told_as_slices_finish_them_and_the_last_ones_come_with_the_report(reservoir: Reservoir) -> None:
    told, report = run(reservoir, [task(1, "ab"), task(2, "abcdef"), task(3, "xy")])
    assert [sorted(identity for identity, _ in finished) for finished in told] == [[1, 3], [2]]
    assert (report.nodes, report.levels, report.complete, report.nodes_dropped, report.peak_bytes) == (10, 6, True, 0, 7)
    assert report.slices == 6


def test_a_result_in_a_batch_is_that_of_the_item_alone_at_every_depth(reservoir: Reservoir) -> None:
    tasks = [task(n, "the same words again"[: n + 1], depth=1 + n % 3) for n in range(12)]
    together = dict(item for finished in run(reservoir, tasks)[0] for item in finished)
    for one in tasks:
        [(_, alone)] = run(reservoir, [one])[0][-1]
        assert isinstance(alone, np.ndarray)
        assert alone.shape == (one.depth, 2, 32)
        np.testing.assert_allclose(np.asarray(together[one.id]), np.asarray(alone), atol=2e-6)


def test_a_dropped_item_is_left_out_and_the_run_is_no_sample(reservoir: Reservoir) -> None:
    told, report = run(reservoir, [task(1, "abcdef"), task(2, "abcdefgh")], [[], [2, 99]])
    assert [identity for finished in told for identity, _ in finished] == [1]
    assert not report.complete
    assert report.nodes_dropped == 8


def test_a_run_whose_items_were_all_dropped_ends(reservoir: Reservoir) -> None:
    told, report = run(reservoir, [task(1, "abcdef" * 10)], [[1]])
    assert [list(finished) for finished in told] == [[]]
    assert report.levels < 60


def test_an_item_that_cannot_be_computed_fails_alone(reservoir: Reservoir) -> None:
    poison = Task(2, Tree("vector", np.array([[np.inf]])), 3, "features")
    told, report = run(reservoir, [task(1, "abc"), poison])
    results = dict(item for finished in told for item in finished)
    assert isinstance(results[2], ComputeFailed)
    assert isinstance(results[1], np.ndarray)
    assert report.complete


def test_a_summary_is_norm_and_mean_of_each_state(reservoir: Reservoir) -> None:
    [(_, features)] = run(reservoir, [task(1, "abc")])[0][-1]
    [(_, summary)] = run(reservoir, [task(1, "abc", summary=True)])[0][-1]
    assert isinstance(features, np.ndarray)
    assert isinstance(summary, np.ndarray)
    np.testing.assert_array_equal(summary, summarise(features))
    np.testing.assert_allclose(summary[:, :, 0], np.linalg.norm(features, axis=2), rtol=1e-6)
    np.testing.assert_allclose(summary[:, :, 1], features.mean(axis=2), rtol=1e-5, atol=1e-7)


def test_layers_are_opened_when_first_wanted_and_stay_open(reservoirs: Reservoirs, folder_of: Folders) -> None:
    shallow = reservoirs.get(32, 1, folder_of(32))
    assert shallow.depth == 1
    assert reservoirs.get(32, 1, folder_of(32)) is shallow
    deep = reservoirs.get(32, 3, folder_of(32))
    assert deep.depth == 3
    assert reservoirs.get(32, 2, folder_of(32)) is deep
    reservoirs.forget(32)
    assert reservoirs.get(32, 1, folder_of(32)).depth == 1


def test_a_missing_layer_is_an_error_and_the_ones_there_still_serve(reservoirs: Reservoirs, folder_of: Folders) -> None:
    with pytest.raises(FileNotFoundError):
        reservoirs.get(32, 4, folder_of(32))
    assert reservoirs.get(32, 3, folder_of(32)).depth == 3


def test_an_item_that_can_no_longer_end_in_time_leaves_between_two_slices_and_the_others_stay(reservoir: Reservoir) -> None:
    tasks = [task(1, "ab" * 100, seconds=1e-9), task(2, "abcd", seconds=1e9), task(3, "abc")]
    told, report = run(reservoir, tasks)
    ended = dict(item for finished in told for item in finished)
    assert isinstance(ended[1], DeadlineExceeded)
    assert isinstance(ended[2], np.ndarray)
    assert isinstance(ended[3], np.ndarray)
    assert [identity for identity, _ in told[0]] == [1], "it was computed on for nobody"
    assert (report.complete, report.nodes_dropped, report.levels) == (False, 200, 4)


def test_one_whose_prediction_ends_after_its_time_leaves_before_that_time_has_come(reservoir: Reservoir) -> None:
    looks = itertools.count(step=10.0)  # ten seconds pass between any two looks at the clock
    told: list[Finished] = []
    last, report = drive(reservoir, [task(1, "ab" * 100, seconds=1000.0)], list, told.append, lambda: 7, lambda: next(looks))
    assert [identity for finished in [*told, last] for identity, value in finished if isinstance(value, DeadlineExceeded)] == [1]
    assert report.levels < 20
    assert report.seconds < 1000.0


@pytest.mark.parametrize(("seconds", "waits"), [(None, True), (1e9, True), (10.0, False)])
def test_where_waiting_would_cost_one_its_time_all_begin_at_once(reservoir: Reservoir, seconds: float | None, *, waits: bool) -> None:
    passed = 0.0

    def clock() -> float:
        nonlocal passed
        passed += 0.1
        return passed

    drive(reservoir, [task(0, "x" * 60)], list, lambda done: None, lambda: 7, clock)  # the speed is known
    lengths = [60, 50, 45, 40, *[12] * 28]
    tasks = [task(n, "x" * length, seconds=seconds if length == 12 else None) for n, length in enumerate(lengths)]
    told: list[Finished] = []
    last, report = drive(reservoir, tasks, list, told.append, lambda: 7, clock)
    assert report.complete, "nobody's time passed"
    ended = {at for at, finished in enumerate([*told, last]) for identity, _ in finished if lengths[identity] == 12}
    assert (len(ended) > 1) == waits


def test_one_slice_that_the_machine_interrupted_condemns_nobody(reservoir: Reservoir) -> None:
    late = {40}  # ten minutes in which this process did not run
    looks = itertools.count()
    passed = 0.0

    def clock() -> float:
        nonlocal passed
        passed += 600.0 if next(looks) in late else 0.001
        return passed

    told: list[Finished] = []
    last, report = drive(reservoir, [task(1, "ab" * 100, seconds=1000.0)], list, told.append, lambda: 7, clock)
    assert [type(value) for finished in [*told, last] for _, value in finished] == [np.ndarray]
    assert report.complete


@pytest.mark.parametrize("stalled", [1, 5])
def test_a_worker_whose_very_first_slices_the_machine_interrupted_condemns_nobody(reservoir: Reservoir, stalled: int) -> None:
    passed = 0.0

    def clock() -> float:
        nonlocal passed
        passed += 0.070 if reservoir.measurements < stalled else 0.0001  # at that speed 200 levels would take 14 s
        return passed

    told: list[Finished] = []
    last, report = drive(reservoir, [task(1, "ab" * 100, seconds=10.0)], list, told.append, lambda: 7, clock)
    assert [type(value) for finished in [*told, last] for _, value in finished] == [np.ndarray]
    assert report.complete


def test_the_cpu_seconds_are_those_between_start_and_end_of_the_run_or_not_told_at_all(reservoir: Reservoir) -> None:
    looks = iter([100.0, 100.25])
    _, report = drive(reservoir, [task(1, "ab")], list, lambda done: None, lambda: 7, cpu_clock=lambda: next(looks))
    assert report.cpu_seconds == 0.25
    assert run(reservoir, [task(1, "ab")])[1].cpu_seconds is None


def test_a_readout_is_applied_where_the_features_are_and_only_to_those_who_want_it(reservoir: Reservoir) -> None:
    random = np.random.default_rng(0)
    layer = OutputLayer(3, 32, random.normal(size=(2, 192)), random.normal(size=2))
    tasks = [Task(1, parse_input("abc"), 3, "readout"), Task(2, parse_input("abc"), 3, "features")]
    last, _ = drive(reservoir, tasks, list, lambda _: None, lambda: 7, readout=layer)
    values = dict(last)
    assert isinstance(values[2], np.ndarray)
    np.testing.assert_array_equal(values[1], layer.apply(values[2]))
    expected = layer.intercept + layer.weights @ values[2].reshape(-1).astype(np.float64)
    np.testing.assert_array_equal(values[1], expected.astype(np.float32))


@pytest.mark.parametrize("layer", [None, OutputLayer(2, 32, np.zeros((1, 128)), np.zeros(1))])
def test_a_readout_that_is_not_there_fails_the_item_alone(layer: OutputLayer | None, reservoir: Reservoir) -> None:
    tasks = [Task(1, parse_input("abc"), 3, "readout"), Task(2, parse_input("abc"), 3, "summary")]
    last, report = drive(reservoir, tasks, list, lambda _: None, lambda: 7, readout=layer)
    values = dict(last)
    assert isinstance(values[1], ComputeFailed)
    assert isinstance(values[2], np.ndarray)
    assert report.complete
