"""Percentiles from buckets: bounded by the bucket, in order, and the same arithmetic as Prometheus'."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api import names
from dtesn_sidecar.metrics.tallies import Distribution, Tallied
from dtesn_sidecar.pages.quantiles import mean, quantile, since

SECONDS = st.lists(st.floats(0.0, 70.0), min_size=1, max_size=60)
SHARE = st.floats(0.01, 1.0)


def tallied(values: list[float]) -> Tallied:
    distribution = Distribution(names.METRIC_REQUEST_SECONDS)
    for value in values:
        distribution.observe(value)
    return distribution.read()


@given(SECONDS, SHARE)
def test_a_percentile_is_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    histogram = tallied(values)
    true = sorted(values)[math.ceil(q * len(values) - 1e-9) - 1]
    bucket = bisect_left(histogram.bounds, true)
    lower = 0.0 if bucket == 0 else histogram.bounds[bucket - 1]
    upper = histogram.bounds[min(bucket, len(histogram.bounds) - 1)]
    assert min(lower, upper) <= quantile(histogram, q) <= upper


@given(SECONDS, SHARE, SHARE)
def test_a_higher_percentile_is_not_lower(values: list[float], one: float, other: float) -> None:
    histogram = tallied(values)
    assert quantile(histogram, min(one, other)) <= quantile(histogram, max(one, other))


@given(SECONDS, SECONDS)
def test_what_lies_between_two_readings_is_what_was_observed_in_between(before: list[float], after: list[float]) -> None:
    found = since(tallied(before + after), tallied(before))
    assert found.counts == tallied(after).counts
    assert mean(found) == pytest.approx(sum(after) / len(after), abs=1e-9)


def test_within_a_bucket_values_are_taken_to_be_spread_evenly() -> None:
    histogram = Tallied((1.0, 2.0, 4.0), (10, 10, 20, 0), 0.0)
    assert quantile(histogram, 0.5) == 2.0  # the 20th of 40 is the last of the second bucket
    assert quantile(histogram, 0.75) == 3.0  # the 30th, half of the way through the third
    assert quantile(histogram, 0.125) == 0.5  # the first bucket begins at 0
    assert quantile(Tallied((1.0, 2.0), (0, 0, 5), 50.0), 0.5) == 2.0  # beyond all bounds: the last bound


def test_of_nothing_there_is_no_percentile_and_no_mean() -> None:
    nothing = Tallied((1.0,), (0, 0), 0.0)
    assert quantile(nothing, 0.5) is None
    assert mean(nothing) is None
