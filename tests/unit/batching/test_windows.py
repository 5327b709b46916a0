"""When a free device is held and for how long: the bounds that hold for any view."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace

from dtesn_sidecar.batching.windows import Close, Hold, WindowView, always_closed, hold_for_arrivals, hold_for_returning, hold_for_size

VIEW = WindowView(
    now=10.0,
    in_hand=1,
    opened=10.0,
    held_since=10.0,
    last_arrival=10.0,
    places=8,
    peak=8,
    computing=0,
    returning=7.0,
    rate=0.0,
    batch_seconds=0.02,
    per_item_seconds=0.0005,
    shortest=0.005,
    window=0.05,
    latest=1000.0,
    draining=False,
)
ages = st.floats(0, 0.2)
counts = st.integers(0, 40)


@st.composite
def views(draw: Any) -> WindowView:
    now = 100.0
    opened = now - draw(ages)
    held = now - draw(st.floats(0, now - opened))
    return WindowView(
        now=now,
        in_hand=draw(st.integers(1, 40)),
        opened=opened,
        held_since=held,
        last_arrival=now - draw(st.floats(0, now - opened)),
        places=draw(st.integers(1, 40)),
        peak=draw(counts),
        computing=draw(counts),
        returning=draw(st.floats(0, 40)),
        rate=draw(st.floats(0, 5000)),
        batch_seconds=draw(st.floats(0.001, 0.1)),
        per_item_seconds=draw(st.floats(0, 0.001)),
        shortest=draw(st.floats(0, 0.02)),
        window=draw(st.floats(0.02, 0.1)),
        latest=now + draw(st.floats(-0.05, 0.2)),
        draining=draw(st.booleans()),
    )


@given(views())
def test_whoever_is_held_for_returning_clients_is_held_for_the_shortest_window_at_most(view: WindowView) -> None:
    held = hold_for_returning(view)
    if held is not None:
        assert view.now < held.until <= min(view.held_since + view.shortest, view.latest)
        assert view.in_hand < held.items <= view.places


@given(views())
def test_nobody_is_held_for_more_clients_than_the_peak_of_the_last_second_leaves_to_come(view: WindowView) -> None:
    held = hold_for_returning(view)
    if view.peak - view.computing <= view.in_hand:
        assert held is None
    if held is not None:
        assert held.items <= view.peak - view.computing


@given(views())
def test_a_window_is_held_open_for_arrivals_only_while_more_arrive_during_the_compute_than_are_in_hand(view: WindowView) -> None:
    held = hold_for_arrivals(view)
    if view.rate * view.batch_seconds <= view.in_hand:
        assert held is None
    if held is not None:
        assert view.now < held.until <= min(view.opened + view.window, view.latest)
        assert held.items > view.in_hand


@given(views())
def test_for_its_size_a_batch_is_held_until_the_window_of_its_oldest_is_over(view: WindowView) -> None:
    until = min(view.opened + view.window, view.latest)
    assert hold_for_size(view) == (Hold(until, view.places) if until > view.now else None)


@given(views())
def test_no_strategy_is_asked_about_a_drain_a_full_batch_or_a_deadline_that_is_near(view: WindowView) -> None:
    reasons = [
        reason
        for reason, holds in (("drain", view.draining), ("full", view.in_hand >= view.places), ("deadline", view.now >= view.latest))
        if holds
    ]
    assert always_closed(view) == (Close(reasons[0]) if reasons else None)


@pytest.mark.parametrize(
    ("change", "items"),
    [({}, 8), ({"places": 4}, 4), ({"peak": 5}, 5), ({"peak": 8, "computing": 3}, 5), ({"returning": 2.0}, 3)],
)
def test_a_device_is_held_for_as_many_as_are_expected(change: dict[str, Any], items: int) -> None:
    held = hold_for_returning(replace(VIEW, **change))
    assert held == Hold(VIEW.now + VIEW.shortest / 4, items)


def test_each_arrival_prolongs_the_hold_by_a_quarter_until_the_shortest_window_is_over() -> None:
    ends = [hold_for_returning(replace(VIEW, now=10 + at, last_arrival=10 + at)) for at in (0.001, 0.002, 0.003, 0.0045)]
    assert [held.until for held in ends] == pytest.approx([10.00225, 10.00325, 10.00425, 10.005])
    assert hold_for_returning(replace(VIEW, now=10.005, last_arrival=10.005)) is None


@pytest.mark.parametrize(("rate", "held"), [(49.0, False), (51.0, True)])  # 0.02 s of compute for the one in hand
def test_the_device_waits_for_arrivals_from_where_they_exceed_what_is_in_hand(rate: float, held: bool) -> None:
    view = replace(VIEW, returning=0.0, peak=1, rate=rate)
    assert (hold_for_arrivals(view) is not None) is held
