"""What the sidecars say of themselves, put together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.status import Observed
from dtesn_operator.observe import WRITE_EVERY, Reading, bands, kept, observed_of


def body(load: float | None = 0.5, weight: float = 1.0, *, rate: float | None = 10.0, pending: int = 0, **sources: Any) -> dict[str, Any]:
    return {
        "current_batch_size": 8,
        "pending_requests": pending,
        "metrics": {"requests_per_second": rate, "throughput_improvement": 40.0},
        "server_load": {"active_requests": 3, "queue": {"value": load, "weight": weight}, **sources},
    }


def test_nobody_who_answers_is_no_figures() -> None:
    assert observed_of([]) is None


def test_load_and_batch_size_are_means_and_the_rate_and_the_queue_are_sums() -> None:
    found = observed_of([body(0.2, rate=100.0, pending=3), body(0.4, rate=20.0, pending=4)])
    assert found == Observed(load=0.3, batch_size=8.0, requests_per_second=120.0, throughput_improvement=40.0, pending=7)


def test_a_pods_load_is_the_mean_of_its_sources_by_weight_and_what_has_no_data_has_none() -> None:
    system = {"value": 0.9, "weight": 3.0}
    assert observed_of([body(0.1, system=system, nvml={"value": None, "weight": 5.0})]).load == 0.7


def test_a_pod_without_data_is_left_out_of_the_mean() -> None:
    assert observed_of([body(None), body(0.8)]).load == 0.8
    assert observed_of([body(None)]).load is None


def test_a_reading_is_fresh_where_some_pod_has_data() -> None:
    assert not Reading(1, (), 0.0).fresh
    assert not Reading(1, (body(None),), 0.0).fresh
    assert Reading(2, (body(None), body(0.0)), 0.0).fresh


@given(st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_figures_have_two_digits(load: float, pending: int) -> None:
    found = observed_of([body(load, pending=pending)])
    assert found.load == float(f"{found.load:.2g}")
    assert found.pending == int(float(f"{found.pending:.2g}"))


def test_changes_within_a_band_are_written_once_in_five_minutes_and_beyond_it_at_once() -> None:
    before, near, far = Observed(load=0.30), Observed(load=0.47), Observed(load=0.95)
    assert kept(before, near, 10.0) is before
    assert kept(before, near, WRITE_EVERY) is near
    assert kept(before, far, 10.0) is far


def test_what_trembles_at_the_edge_of_a_band_is_never_written() -> None:
    before, beyond = Observed(load=0.249, batch_size=8.0), Observed(load=0.251, batch_size=8.1)
    assert bands(before) != bands(beyond)
    assert kept(before, beyond, 100 * WRITE_EVERY) is before


@given(st.floats(0.0, 1.0), st.floats(-0.04, 0.04), st.floats(0.0, 1e6))
def test_a_fleet_at_rest_writes_nothing_however_long_it_rests(load: float, drift: float, age: float) -> None:
    before = Observed(load=load, batch_size=8.0, requests_per_second=0.0, throughput_improvement=0.0, pending=0)
    fresh = Observed(load=load + drift, batch_size=8.0, requests_per_second=0.0, throughput_improvement=0.0, pending=0)
    assert kept(before, fresh, age) is before


@pytest.mark.parametrize("name", ["load", "batch_size", "requests_per_second", "throughput_improvement", "pending"])
def test_each_figure_that_moves_or_comes_or_goes_is_written_in_time(name: str) -> None:
    nothing, little, much = Observed(), Observed(**{name: 1}), Observed(**{name: 2})
    for before, fresh in ((nothing, little), (little, nothing), (little, much), (much, little)):
        assert kept(before, fresh, WRITE_EVERY) is fresh


def test_the_first_request_that_waits_is_written_at_once() -> None:
    before, waits = Observed(load=0.1, pending=0), Observed(load=0.1, pending=1)
    assert kept(before, waits, 0.0) is waits


def test_pods_that_fall_silent_take_the_figures_away_at_once() -> None:
    assert kept(Observed(load=0.3), None, 1.0) is None
