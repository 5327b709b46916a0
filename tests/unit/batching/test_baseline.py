"""What one item alone takes, fitted to single runs that were disturbed in many ways; and when such runs are made."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dtesn_sidecar.batching.baseline import Baseline, BaselineSchedule, HandOver, undisturbed

SIZES = (16, 64, 128)
coefficient = st.floats(0.0, 0.01)
part = st.floats(1e-5, 10.0)
count = st.integers(1, 500)


def learnt(samples: Any, baseline: Baseline | None = None, now: float = 0.0) -> Baseline:
    """From chains (nodes, seconds)."""
    baseline = baseline if baseline is not None else Baseline()
    for nodes, took in samples:
        baseline.learn(nodes, nodes, took, now)
    return baseline


def true(nodes: int) -> float:
    return 0.001 + 1e-4 * nodes


# -- what a run counts with --------------------------------------------------------------------------------------


@given(part, part, part, st.floats(1.0, 20.0))
def test_waiting_for_a_core_changes_nothing_and_running_on_one_everything(around: Any, computing: Any, share: Any, stretch: Any) -> None:
    """However much others took of the core meanwhile, in the compute and around it alike."""
    cpu = computing * min(1.0, share)
    calm = undisturbed(computing + around, computing, cpu)
    assert undisturbed(stretch * (computing + around), stretch * computing, cpu) == pytest.approx(calm)
    assert cpu <= calm * (1 + 1e-9)
    assert calm <= computing + around


@given(part, part, st.sampled_from([None, 0.0]))
def test_where_the_cpu_time_is_not_known_a_run_counts_as_it_was(occupied: Any, computing: Any, unknown: Any) -> None:
    assert undisturbed(occupied, computing, unknown) == occupied


def test_more_cpu_than_time_is_several_threads_and_not_less_than_nothing_lost() -> None:
    assert undisturbed(1.0, 0.5, 2.0) == 1.0


@given(st.lists(part, min_size=1, max_size=60))
def test_of_the_hand_over_the_least_of_the_last_few_counts(took: Any) -> None:
    hand_over = HandOver()
    counted = [hand_over.observe(each) for each in took]
    assert counted == [min(took[max(0, n - 14) : n + 1]) for n in range(len(took))]


# -- the fit -----------------------------------------------------------------------------------------------------


@given(coefficient, coefficient.filter(lambda slope: slope > 1e-6), st.integers(16, 200))
def test_the_fit_finds_the_constant_and_the_slope_of_chains(constant: Any, slope: Any, nodes: Any) -> None:
    baseline = learnt([(n, constant + slope * n) for n in SIZES * 30])
    assert baseline.predict(nodes, nodes) == pytest.approx(constant + slope * nodes, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500), part), min_size=1, max_size=50), st.integers(1, 500), st.integers(1, 500)
)
def test_no_prediction_is_below_nothing_and_more_work_never_takes_less(samples: Any, levels: Any, more: Any) -> None:
    baseline = Baseline()
    for now, (high, wide, took) in enumerate(samples):
        baseline.learn(high, wide, took, float(now))
    assert 0.0 <= baseline.predict(levels, levels) <= baseline.predict(levels + more, levels + more)


def test_a_stall_of_the_first_run_is_forgotten_with_the_next() -> None:
    baseline = learnt([(64, 20 * true(64)), *((n, true(n)) for n in SIZES)])
    assert baseline.predict(64, 64) == pytest.approx(true(64), rel=0.2)


def test_a_stall_later_counts_little_and_a_machine_that_has_become_slower_is_believed() -> None:
    baseline = learnt([(n, true(n)) for n in SIZES * 10])
    learnt([(64, 100 * true(64))], baseline)
    assert baseline.predict(64, 64) < 1.3 * true(64)
    learnt([(n, 3 * true(n)) for n in SIZES * 100], baseline)
    assert baseline.predict(64, 64) == pytest.approx(3 * true(64), rel=0.05)


def test_runs_that_were_disturbed_draw_the_fit_less_than_those_that_were_not() -> None:
    baseline = learnt([(n, factor * true(n)) for factor in (1.0, 1.4) * 30 for n in SIZES])
    assert true(64) <= baseline.predict(64, 64) < 1.15 * true(64)


def test_old_samples_give_way_to_new_ones_the_sooner_the_older_they_are() -> None:
    def after(pause: float) -> float:
        baseline = learnt([(n, true(n)) for n in SIZES * 10])
        return learnt([(n, 2 * true(n)) for n in SIZES], baseline, now=pause).predict(64, 64)

    assert true(64) < after(0.0) < after(60.0) < after(600.0)
    assert after(600.0) == pytest.approx(2 * true(64), rel=0.05)


def test_a_run_without_work_or_time_is_no_sample() -> None:
    baseline = learnt([(64, true(64))])
    before = baseline.predict(10, 10)
    for levels, nodes, took in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)):
        baseline.learn(levels, nodes, took, 1.0)
    assert baseline.predict(10, 10) == before


# -- when it is measured -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-4, 0.2), min_size=1, max_size=50))
def test_idle_baseline_runs_take_at_most_a_hundredth_of_the_time_after_calibration(lengths: Any) -> None:
    schedule = BaselineSchedule(0.0)
    now = 0.0
    runs: list[tuple[float, float]] = []
    for length in lengths:
        now = max(now, schedule.due_at())
        runs.append((now, length))
        now += length
        schedule.ended(length, complete=True, now=now)
    pauses = [later[0] - sum(earlier) for earlier, later in itertools.pairwise(runs)]
    together = next((place for place, pause in enumerate(pauses) if pause > 0), len(pauses)) + 1
    assert together <= 3
    assert sum(length for _, length in runs[: together - 1]) <= 0.3
    for (_, length), pause in list(zip(runs, pauses, strict=False))[together - 1 :]:
        assert pause >= 98.9 * length


@pytest.mark.parametrize(("length", "runs"), [(0.01, 3), (0.09, 3), (0.12, 2), (0.4, 1)])
def test_calibration_is_three_runs_one_after_another_as_far_as_300_ms_reach(length: float, runs: int) -> None:
    schedule, now, made = BaselineSchedule(0.0), 0.0, 0
    while schedule.due_at() <= now:
        made += 1
        now += length
        schedule.ended(length, complete=True, now=now)
    assert made == runs
    assert schedule.due_at() == pytest.approx(now + 99 * length)


def test_a_run_that_gave_way_to_a_request_ends_the_calibration() -> None:
    schedule = BaselineSchedule(0.0)
    schedule.ended(0.01, complete=False, now=0.01)
    assert schedule.due_at() > 1.0
