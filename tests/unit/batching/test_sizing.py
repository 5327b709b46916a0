"""The laws of sizes that no load and no window enters."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.batching.wiring_support import Ask, Runner, asking, managed, teach

from dtesn_sidecar.batching.sizing import adaptive_base, largest_within, longest_batch

SECONDS = st.floats(0.0, 10.0)


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 1024))
def test_the_largest_batch_fits_and_one_item_more_would_not(seconds: float, fixed: float, marginal: float, largest: int) -> None:
    size = largest_within(seconds, fixed=fixed, marginal=marginal, largest=largest)
    assert 1 <= size <= largest
    assert size == 1 or fixed + marginal * size <= seconds * (1 + 1e-12)
    assert size == largest or fixed + marginal * (size + 1) > seconds * (1 - 1e-12)


@given(SECONDS, st.floats(0.0, 10.0), st.floats(1e-6, 10.0), st.booleans())
def test_a_batch_is_bounded_by_its_seconds_or_by_twice_what_nothing_makes_shorter(
    longest: float, fixed: float, marginal: float, split_seen: bool
) -> None:
    allowed = longest_batch(longest, fixed=fixed, marginal=marginal, split_seen=split_seen)
    assert allowed >= longest
    assert allowed <= max(longest, 2.0 * (fixed + marginal)) * (1 + 1e-6)
    if fixed + marginal <= longest / 2.0:
        assert allowed == longest


@given(SECONDS, st.floats(0.0, 10.0), st.floats(1e-6, 10.0), st.booleans())
def test_where_one_item_exceeds_the_seconds_of_a_batch_two_may_still_share_one(
    longest: float, fixed: float, marginal: float, split_seen: bool
) -> None:
    allowed = longest_batch(longest, fixed=fixed, marginal=marginal, split_seen=split_seen)
    two = fixed + marginal + marginal <= allowed
    assert two or fixed + marginal <= longest, "what alone exceeds them can be exceeded by any batch"


@given(st.floats(0.01, 10.0), st.floats(1e-6, 1e-3), st.floats(0.01, 10.0))
def test_a_deadline_that_no_size_meets_makes_no_batch_smaller(fixed: float, marginal: float, deadline: float) -> None:
    sizing = {"fixed": fixed, "marginal": marginal, "factor": 0.2, "longest_run": 2.0 * fixed}
    free = adaptive_base(smallest=1, largest=32, deadline=None, **sizing)
    bound = adaptive_base(smallest=1, largest=32, deadline=deadline, **sizing)
    assert free is not None
    assert bound is not None
    assert 1 <= bound <= free
    if fixed + marginal > 0.9 * deadline:
        assert bound == free


@pytest.mark.looptime(start=1000)
async def test_the_limit_is_not_beyond_what_one_batch_may_compute() -> None:
    """Places that `max_batch_seconds` will not let be filled are none."""
    runner = Runner(fixed=0.01, marginal=0.05)
    async with managed(runner, max_batch_seconds=0.25, target_batch_size=8, max_batch_size=32) as manager:
        await teach(manager, runner, rounds=20, most_nodes=2)
        for _ in range(2):  # what is queued first was predicted before batches of several were seen
            flood = [asking(manager, Ask(number), timeout=100.0) for number in range(200)]
            await asyncio.gather(*flood[:-40])
            limit = manager.snapshot().limit
            await asyncio.gather(*flood)
        assert limit in (4, 5)
