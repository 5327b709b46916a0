"""Statistics of the benchmarks."""

from __future__ import annotations

import math

import pytest
from bench.stats import Search, abba, median_interval, quantile, slope_per_hour
from hypothesis import given
from hypothesis import strategies as st

figures = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(figures, st.floats(0.01, 1))
def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], q: float) -> None:
    found = quantile(values, q)
    assert sum(value <= found for value in values) >= q * len(values) - 1e-9
    assert sum(value < found for value in values) < q * len(values)


def test_of_nothing_there_is_no_quantile() -> None:
    assert math.isnan(quantile([], 0.99))


@given(figures)
def test_the_interval_encloses_its_median_and_stays_within_the_values(values: list[float]) -> None:
    found = median_interval(values, draws=200)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        found = median_interval(rng.normal(1.5, 0.2, 20).tolist(), draws=500)
        hits += found.low <= 1.5 <= found.high
    assert 175 <= hits <= 200


def test_no_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


@given(st.integers(1, 30).map(lambda pairs: 2 * pairs))
def test_a_linear_drift_favours_neither_side(blocks: int) -> None:
    turns = list(abba(blocks))
    places = {side: sum(place for place, (_, is_b) in enumerate(turns) if is_b is side) for side in (False, True)}
    assert places[False] == places[True]
    assert [block for block, _ in turns] == sorted(2 * list(range(blocks)))


@given(st.floats(20, 5000), st.floats(10, 8000), st.floats(0.01, 0.1))
def test_the_search_ends_next_to_the_capacity(capacity: float, start: float, resolution: float) -> None:
    search, tries = Search(0.0, math.inf), 0
    while (rate := search.next_rate(start, resolution)) is not None:
        search, tries = search.after(rate, rate <= capacity), tries + 1
        assert tries < 60
    assert search.good <= capacity <= search.bad
    assert search.bad <= search.good * (1 + resolution)


def test_nothing_that_holds_ends_the_search_too() -> None:
    search = Search(0.0, math.inf)
    while (rate := search.next_rate(100, 0.03)) is not None:
        search = search.after(rate, False)
    assert search.good == 0


def test_growth_is_read_from_a_line() -> None:
    assert slope_per_hour([0, 1800, 3600], [10, 15, 20]) == pytest.approx(10)
