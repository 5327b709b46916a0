"""What the errors of past predictions do to admission."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar.batching.admission import OVERRUN_MOST, Outlook, Overrun, finish, lateness

VIEW = Outlook(0.2, 2, 8, 40, 0.4, 0.8, 1.2, 100.0, 0.01, 0.02)
RUNS = st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 100), st.floats(0.001, 100)))


@given(RUNS)
def test_the_factor_is_never_optimistic_and_never_beyond_its_bound(runs: list[tuple[float, float, float]]) -> None:
    overrun = Overrun()
    for actual, predicted, deadline in runs:
        overrun.finished(actual, predicted=predicted, deadline=deadline)
        assert 1.0 <= overrun.factor <= OVERRUN_MOST


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.2])
def test_one_in_twenty_finishes_later_than_the_prediction_times_the_factor(spread: float) -> None:
    rng, overrun = random.Random(7), Overrun()
    late = 0
    for number in range(60_000):
        actual = rng.lognormvariate(0.0, spread)
        late += number >= 20_000 and actual > overrun.factor
        overrun.finished(actual, predicted=1.0, deadline=1.0)
    assert late / 40_000 == pytest.approx(0.05, abs=0.01)


def test_exact_predictions_leave_admission_as_it_is() -> None:
    overrun = Overrun()
    for _ in range(1000):
        overrun.finished(0.9, predicted=0.9, deadline=1.0)
    assert overrun.factor == 1.0
    assert lateness(VIEW, deadline=1.0, overrun=overrun.factor) == lateness(VIEW, deadline=1.0)


def test_a_device_that_slowed_down_is_believed_and_forgiven() -> None:
    overrun = Overrun()
    for _ in range(100):
        overrun.finished(1.3, predicted=1.0, deadline=1.1)
    slow = overrun.factor
    assert slow > 1.25
    for _ in range(2000):
        overrun.finished(1.0, predicted=1.0, deadline=1.1)
    assert overrun.factor < 1.0 + (slow - 1.0) / 2


def test_what_was_predicted_far_within_its_deadline_is_no_sample() -> None:
    overrun = Overrun()
    for _ in range(1000):
        overrun.finished(0.4, predicted=0.01, deadline=1.0)  # forty times the prediction, and of no consequence
    assert overrun.factor == 1.0


@given(st.floats(0.01, 10.0), st.floats(1.0, OVERRUN_MOST))
def test_a_factor_refuses_as_if_everything_took_that_much_longer(deadline: float, factor: float) -> None:
    assert lateness(VIEW, deadline=deadline, overrun=factor) == pytest.approx(factor * finish(VIEW) - 0.9 * deadline)
    assert lateness(VIEW, deadline=deadline, overrun=factor) >= lateness(VIEW, deadline=deadline)
