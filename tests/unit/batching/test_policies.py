"""The laws of each pure policy."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dtesn_sidecar.batching.admission import Outlook, finish, lateness, retry_after, wait_ahead
from dtesn_sidecar.batching.bisect import Bisection, most_runs
from dtesn_sidecar.batching.breaker import Breaker, Circuit
from dtesn_sidecar.batching.budget import Filling, SchedulingBudget, prefix_within
from dtesn_sidecar.batching.bulk import shares
from dtesn_sidecar.batching.concurrency import AdaptiveConcurrency
from dtesn_sidecar.batching.memory import MemoryCap
from dtesn_sidecar.batching.performance import make_calculator
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.batching.sizing import Size, Smoothed, adaptive_base, gain, places_margin, stable_size, window
from dtesn_sidecar.batching.strategies import make_strategy
from dtesn_sidecar.batching.timeouts import AdaptiveTimeout
from dtesn_sidecar.batching.windows import ArrivalRate, PeakConcurrency

ratio = st.floats(0, 1)
thresholds = st.tuples(st.floats(0.01, 0.98), st.floats(0.01, 0.98)).map(sorted).filter(lambda pair: pair[1] - pair[0] > 0.01)


# -- sizing ------------------------------------------------------------------------------------------------------


@given(thresholds, ratio, ratio, ratio)
def test_gain_falls_with_load_and_stays_within_one_plus_minus_the_factor(bounds: Any, factor: Any, a: Any, b: Any) -> None:
    low, high = bounds
    at = {load: gain(load, low=low, high=high, factor=factor) for load in (a, b)}
    assert at[min(a, b)] >= at[max(a, b)] - 1e-12
    assert all(1 - factor - 1e-9 <= value <= 1 + factor + 1e-9 for value in at.values())


@given(thresholds, ratio, ratio)
def test_gain_and_window_are_continuous(bounds: Any, factor: Any, load: Any) -> None:
    low, high = bounds
    step = 1e-7
    near = min(1.0, load + step)
    slope = 1 / min(low, 1 - high)
    assert abs(gain(load, low=low, high=high, factor=factor) - gain(near, low=low, high=high, factor=factor)) <= 2 * step * slope
    one = window(load, low=low, high=high, shortest=0.005, longest=0.05)
    assert abs(one - window(near, low=low, high=high, shortest=0.005, longest=0.05)) <= step * slope


def test_the_gain_at_its_knots() -> None:
    at = {load: gain(load, low=0.3, high=0.8, factor=0.2) for load in (0.0, 0.3, 0.5, 0.8, 1.0)}
    assert at == pytest.approx({0.0: 1.2, 0.3: 1.0, 0.5: 1.0, 0.8: 1.0, 1.0: 0.8})


def test_the_window_goes_through_its_four_points() -> None:
    at = [window(load, low=0.3, high=0.8, shortest=5, longest=50) for load in (0, 0.3, 0.8, 1)]
    assert at == pytest.approx([50, math.sqrt(250), math.sqrt(250), 5])


def test_no_data_is_as_between_the_thresholds() -> None:
    assert gain(None, low=0.3, high=0.8, factor=0.2) == 1.0
    assert window(None, low=0.3, high=0.8, shortest=5, longest=50) == pytest.approx(math.sqrt(250))


@given(st.floats(1e-4, 0.1), st.floats(1e-5, 0.01), st.integers(1, 8), st.integers(8, 256), ratio)
def test_the_adaptive_base_is_within_five_percent_of_the_best_rate_unless_capped(
    fixed: Any, marginal: Any, smallest: Any, largest: Any, factor: Any
) -> None:
    base = adaptive_base(
        fixed=fixed, marginal=marginal, smallest=smallest, largest=largest, factor=factor, deadline=None, longest_run=100.0
    )
    assert base is not None
    assert base >= smallest
    ceiling = math.floor(largest / (1 + factor))
    if smallest < base < ceiling:

        def rate(n: Any) -> Any:
            return n / (fixed + marginal * n)

        assert rate(base) >= 0.95 * rate(largest) * (1 - 1e-9)
        assert rate(base - 1) < 0.95 * rate(largest) * (1 + 1e-9)
    assert base <= max(ceiling, smallest)


def test_the_adaptive_base_shrinks_where_deadlines_are_short() -> None:
    at = [
        adaptive_base(fixed=0.02, marginal=0.0005, smallest=1, largest=64, factor=0.2, deadline=deadline, longest_run=0.25)
        for deadline in (0.05, 0.06, 0.08, 10.0)
    ]
    sizes = [size for size in at if size is not None]
    assert sizes == sorted(sizes)
    assert at[0] is not None
    assert 2 * (0.02 + 0.0005 * at[0]) <= 0.9 * 0.05 or at[0] == 1


@given(st.floats(1, 1100))
def test_the_stable_size_sustains_the_rate(rate: Any) -> None:
    size = stable_size(rate, fixed=0.02, marginal=0.0005, largest=64)
    assert size == 64 or size / (0.02 + 0.0005 * size) >= rate


@given(ratio, st.integers(1, 4))
def test_the_margin_of_places_is_continuous_and_no_larger_with_more_devices(used: Any, devices: Any) -> None:
    assert abs(places_margin(used, devices) - places_margin(used + 1e-7, devices)) < 1e-5
    assert places_margin(used, devices + 1) <= places_margin(used, devices)


@given(st.floats(1, 32), st.floats(1, 32), st.floats(0.01, 1), st.integers(0, 50))
def test_smoothing_approaches_the_aim_without_passing_it_however_the_ticks_come(start: Any, aim: Any, rate: Any, ticks: Any) -> None:
    once, each = (Smoothed(Size(start, 0.01), 0.0) for _ in range(2))
    once.advance(Size(aim, 0.02), rate, ticks * 0.1)
    for tick in range(ticks):
        each.advance(Size(aim, 0.02), rate, (tick + 1) * 0.1)
    assert once.items == pytest.approx(each.items, rel=1e-9)
    assert min(start, aim) - 1e-9 <= once.items <= max(start, aim) + 1e-9


# -- windows -----------------------------------------------------------------------------------------------------


def test_a_rate_counts_arrivals_only_while_something_is_queued_or_computing() -> None:
    rate = ArrivalRate()
    rate.advance(0.0, open_=False)
    for step in range(1, 100):
        rate.advance(step * 1.0, open_=False)  # idle
        rate.advance(step * 1.0 + 0.1, open_=True)
        rate.arrived()
    assert rate.per_second == pytest.approx(10.0, rel=0.3)


def test_the_peak_is_forgotten_after_a_second() -> None:
    peak = PeakConcurrency()
    peak.observe(7, 0.0)
    peak.observe(2, 0.05)
    assert peak.peak(0.9) == 7
    assert peak.peak(1.2) == 2


# -- budget ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 500))
def test_the_longest_prefix_within_the_cap_is_found(sizes: Any, cap: Any) -> None:
    works = [Work(nodes=size) for size in sizes]
    kept = prefix_within(works, lambda some: sum(work.nodes for work in some), cap)
    assert kept == 1 or sum(sizes[:kept]) <= cap
    assert kept == len(sizes) or sum(sizes[: kept + 1]) > cap


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 0.1), st.floats(0, 0.1)), max_size=40))
def test_a_filling_keeps_every_bound_but_for_a_first_item_alone(entries: Any) -> None:
    filling = Filling(items_max=8, charge_max=60, seconds_max=0.25, now=0.0)
    for charge, fixed, marginal in entries:
        if not filling.full and filling.fits(charge, fixed, marginal):
            filling.add(charge, fixed, marginal, 1.0)
    assert filling.items <= 8
    assert filling.items <= 1 or (filling.charge <= 60 and filling.seconds <= 0.25 + 1e-9)


@pytest.mark.parametrize(("tokens", "seqs"), [(0, 1), (1, 0), (True, 1), (1.5, 1), (1, 8192), (1 << 30, 1)])
def test_a_scheduling_budget_names_the_field_and_the_value(tokens: Any, seqs: Any) -> None:
    with pytest.raises(ValueError, match=r"(token_budget|max_num_seqs) is"):
        SchedulingBudget(tokens, seqs)


# -- admission ---------------------------------------------------------------------------------------------------


def outlook(**changes: Any) -> Any:
    base: dict[str, Any] = {"rest": 0.0, "devices": 1, "limit": 64, "ahead_items": 0, "ahead_fixed": 0.0, "ahead_marginal": 0.0}
    base |= {"spread": 1.0, "rate": 0.0, "fixed": 0.02, "marginal": 0.0005} | changes
    if "ahead_fixed" not in changes:
        base["ahead_fixed"], base["ahead_marginal"] = 0.02 * base["ahead_items"], 0.0005 * base["ahead_items"]
    return Outlook(**base)


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0, 1))
def test_more_work_ahead_is_never_an_earlier_start(a: Any, b: Any, rest: Any) -> None:
    low, high = sorted((a, b))
    assert wait_ahead(outlook(ahead_items=low, rest=rest)) <= wait_ahead(outlook(ahead_items=high, rest=rest)) + 1e-12


def test_the_finish_is_the_rest_the_batches_ahead_and_the_own_batch() -> None:
    assert finish(outlook(ahead_items=130, rest=0.01)) == pytest.approx(0.01 + 2 * 0.052 + 0.02 + 3 * 0.0005)


def test_nine_tenths_of_the_deadline_is_the_bound() -> None:
    alone = finish(outlook())
    assert lateness(outlook(), deadline=alone / 0.9 * 1.001) < 0
    assert lateness(outlook(), deadline=alone / 0.9 * 0.999) > 0


@given(st.floats(0, 1000), ratio)
def test_retry_after_is_at_least_a_second_and_at_most_a_quarter_more(seconds: Any, jitter: Any) -> None:
    base = max(1, math.ceil(seconds))
    assert base == retry_after(seconds, 0.0) <= retry_after(seconds, jitter) <= retry_after(seconds, 1.0) == 1.25 * base


# -- timeouts ----------------------------------------------------------------------------------------------------


def test_the_default_timeout_is_thirty_seconds_until_a_hundred_samples() -> None:
    timeouts = AdaptiveTimeout()
    for _ in range(99):
        timeouts.finished(0.5, 10.0)
    assert timeouts.seconds(shortest=1, longest=300) == 30
    timeouts.finished(0.5, 10.0)
    assert timeouts.seconds(shortest=1, longest=300) == pytest.approx(2.0)


def test_what_finishes_while_requests_are_shed_teaches_nothing() -> None:
    timeouts = AdaptiveTimeout()
    for _ in range(100):
        timeouts.finished(0.5, 10.0)
    timeouts.shed(20.0)
    for _ in range(1000):
        timeouts.finished(50.0, 20.5)
    assert timeouts.seconds(shortest=1, longest=300) == pytest.approx(2.0)


@given(st.floats(0.001, 100))
def test_the_default_timeout_stays_within_its_bounds(sample: Any) -> None:
    timeouts = AdaptiveTimeout()
    for _ in range(100):
        timeouts.finished(sample, 10.0)
    assert 1 <= timeouts.seconds(shortest=1, longest=60) <= 60


# -- breaker -----------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=40))
def test_a_breaker_opens_after_that_many_failures_in_a_row_and_not_before(outcomes: Any) -> None:
    breaker = Breaker(threshold=3, timeout=30)
    row, opened = 0, False
    for success in outcomes:
        breaker.record(success=success, probe=False, now=0.0)
        row = 0 if success else row + 1
        opened = opened or row >= 3
        assert (breaker.state(0.0) is Circuit.OPEN) == opened


def opened_breaker() -> Breaker:
    breaker = Breaker(threshold=1, timeout=30)
    breaker.record(success=False, probe=False, now=0.0)
    return breaker


def test_an_open_breaker_admits_one_probe_after_its_timeout() -> None:
    breaker = opened_breaker()
    assert not breaker.wants_probe(29.9)
    assert breaker.retry_after(29.0) == pytest.approx(1.0)
    assert breaker.wants_probe(30.0)
    breaker.probe_started()
    assert not breaker.wants_probe(30.0)


@pytest.mark.parametrize(("success", "state"), [(True, Circuit.CLOSED), (False, Circuit.OPEN)])
def test_only_the_probe_decides(success: Any, state: Any) -> None:
    breaker = opened_breaker()
    breaker.probe_started()
    breaker.record(success=not success, probe=False, now=31.0)
    assert breaker.state(31.0) is Circuit.HALF_OPEN
    breaker.record(success=success, probe=True, now=31.0)
    assert breaker.state(31.0) is state


def test_an_abandoned_probe_leaves_room_for_the_next() -> None:
    breaker = opened_breaker()
    breaker.probe_started()
    breaker.probe_abandoned()
    assert breaker.wants_probe(30.0)


# -- bisection ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.data())
def test_one_bad_item_is_found_alone_within_the_runs(count: Any, data: Any) -> None:
    bad = data.draw(st.integers(0, count - 1))
    bisection = Bisection(list(range(count)))
    good: list[int] = []
    while (group := bisection.next_group(lambda _: True)) is not None:
        if bad in group:
            bisection.failed(group)
        else:
            good += group
    assert bisection.culprits == [bad]
    assert sorted(good) == [n for n in range(count) if n != bad]
    assert bisection.undecided() == []
    assert bisection.runs <= most_runs(count) <= 2 * math.log2(count) + 2


@given(st.sets(st.integers(0, 63)), st.sets(st.integers(0, 63)))
def test_many_bad_items_leave_everyone_decided_or_undecided_never_both(bad: Any, gone: Any) -> None:
    bisection = Bisection(list(range(64)))
    good: set[int] = set()
    while (group := bisection.next_group(lambda n: n not in gone)) is not None:
        if bad & set(group):
            bisection.failed(group)
        else:
            good |= set(group)
    culprits, undecided = set(bisection.culprits), set(bisection.undecided())
    assert culprits <= bad
    assert not good & bad
    assert good | culprits | undecided | gone == set(range(64))
    assert not good & culprits
    assert not good & undecided
    assert not culprits & undecided
    assert bisection.runs <= most_runs(64)


# -- memory and concurrency --------------------------------------------------------------------------------------


@given(st.integers(2, 10**9), st.one_of(st.none(), st.integers(2, 10**9)))
def test_out_of_memory_halves_the_cap_and_it_recovers_five_percent_per_ten_seconds(size: Any, allowed: Any) -> None:
    memory = MemoryCap()
    assert memory.cap(allowed, 0.0) == allowed
    assert memory.out_of_memory(size, 2, allowed, 0.0)
    halved = memory.cap(allowed, 0.0)
    assert halved is not None
    assert halved <= size / 2
    later = memory.cap(allowed, 10.0)
    assert later is not None
    assert later <= max(1, halved * 1.05 + 2)
    assert memory.cap(allowed, 10_000.0) == allowed


def test_an_item_alone_teaches_a_cap_only_where_it_takes_most_of_it() -> None:
    memory = MemoryCap()
    assert not memory.out_of_memory(40_000, 1, None, 0.0)
    assert not memory.out_of_memory(40_000, 1, 1_000_000, 0.0)
    assert memory.cap(1_000_000, 0.0) == 1_000_000
    assert memory.out_of_memory(600_000, 1, 1_000_000, 0.0)
    assert memory.cap(1_000_000, 0.0) == 300_000


def trial(concurrency: AdaptiveConcurrency, rates: dict[int, float], *, seconds: int, high_load: bool = False) -> None:
    for now in range(seconds):
        nodes = int(rates[concurrency.places])
        concurrency.measure(nodes=nodes, seconds=1.0, saturated=True, high_load=high_load, now=float(now))


def test_concurrency_rises_while_throughput_does() -> None:
    concurrency = AdaptiveConcurrency(4)
    concurrency.places = 1
    trial(concurrency, {1: 1000, 2: 1900, 3: 1910, 4: 1910}, seconds=400)
    assert concurrency.places == 2


def test_high_load_takes_a_place_only_where_it_costs_no_throughput() -> None:
    costly, free = AdaptiveConcurrency(2), AdaptiveConcurrency(2)
    trial(costly, {1: 1000, 2: 1900}, seconds=400, high_load=True)
    trial(free, {1: 1000, 2: 1000}, seconds=400, high_load=True)
    assert (costly.places, free.places) == (2, 1)


def test_out_of_memory_takes_a_place_at_once_but_never_the_last() -> None:
    concurrency = AdaptiveConcurrency(2)
    for _ in range(3):
        concurrency.out_of_memory(0.0)
    assert concurrency.places == 1


# -- names, bulk -------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="window"):
        make_calculator("nonsense", 10)
    with pytest.raises(ValueError, match="just_in_time"):
        make_strategy("nonsense")


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=100), st.integers(1, 20))
def test_a_bulk_call_is_dealt_out_so_that_hands_differ_by_less_than_its_dearest_item(costs: Any, size: Any) -> None:
    order = shares(costs, size)
    assert sorted(order) == list(range(len(costs)))
    hands = -(-len(costs) // size)
    ranked = sorted(range(len(costs)), key=lambda i: -costs[i])
    sums = [sum(costs[i] for i in ranked[hand::hands]) for hand in range(hands)]
    assert max(sums) - min(sums) <= max(costs)
