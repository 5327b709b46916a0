from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given
from tests.unit.batching.batching_support import item

from dtesn_sidecar.batching.item import Item, State
from dtesn_sidecar.batching.queue import RequestQueue, Verdict

arrivals = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2), st.integers(0, 2)), max_size=60)


def filled(entries: list[tuple[float, int, int]]) -> tuple[RequestQueue, list[Item]]:
    queue = RequestQueue(aging=0.5)
    items = [item(arrival, priority=priority, shape=shape, fixed=0.1, marginal=0.2) for arrival, priority, shape in sorted(entries)]
    for entry in items:
        queue.push(entry)
    return queue, items


def take_all(queue: RequestQueue, at_most: int) -> list[Item]:
    count = 0

    def offer(_: object) -> Verdict:
        nonlocal count
        count += 1
        return Verdict.TAKE if count <= at_most else Verdict.STOP

    head = queue.head_shared()
    return [] if head is None else queue.fill(head.work.shape, offer)[0]


@given(arrivals)
def test_items_leave_in_key_order(entries: Any) -> None:
    queue, items = filled(entries)
    left = []
    while (head := queue.head()) is not None:
        left.append(head)
        queue.remove(head)
    assert left == sorted(items, key=lambda i: (i.key, i.id))
    assert (len(queue), queue.charge) == (0, 0)


@given(arrivals)
def test_nothing_is_overtaken_by_what_came_an_aging_per_class_later(entries: Any) -> None:
    queue, _ = filled(entries)
    left = []
    while (head := queue.head()) is not None:
        left.append(head)
        queue.remove(head)
    for place, first in enumerate(left):
        for later in left[place + 1 :]:
            assert first.arrival - later.arrival <= 0.5 * max(0, later.priority - first.priority) + 1e-9


@given(arrivals, st.integers(1, 10))
def test_a_batch_has_its_heads_shape_and_takes_it_in_key_order_from_the_whole_queue(entries: Any, size: Any) -> None:
    queue, items = filled(entries)
    head = queue.head()
    taken = take_all(queue, size)
    if head is None:
        assert taken == []
    else:
        same = sorted((i for i in items if i.work.shape == head.work.shape), key=lambda i: (i.key, i.id))
        assert taken == same[:size]
        assert all(i.state is State.COMPUTING for i in taken)


@given(arrivals, st.data())
def test_counts_follow_any_removals_and_returns(entries: Any, data: Any) -> None:
    queue, items = filled(entries)
    for gone in data.draw(st.lists(st.sampled_from(items), unique_by=id)) if items else []:
        queue.remove(gone)
    taken = take_all(queue, data.draw(st.integers(1, 8)))
    queue.give_back(taken[1:])
    live = [i for i in items if i.state is State.QUEUED]
    assert len(queue) == len(live) == sum(queue.by_priority)
    assert sorted(i.id for i in queue) == sorted(i.id for i in live)
    assert queue.charge == sum(i.charge for i in live) == sum(queue.charge_by_priority)
    assert queue.head() == min(live, key=lambda i: (i.key, i.id), default=None)


@given(arrivals, st.floats(0, 7))
def test_work_ahead_is_never_less_than_it_is_and_exact_to_a_bucket(entries: Any, key: Any) -> None:
    queue, items = filled(entries)
    ahead = queue.ahead(key)
    assert ahead.items >= sum(i.key <= key for i in items)
    assert ahead.items <= sum(i.key <= key + 0.5 / 16 for i in items)
    assert abs(ahead.marginal - 0.2 * ahead.items) < 1e-6


@given(arrivals, st.integers(0, 2))
def test_an_arrival_displaces_the_newest_of_the_lowest_class_below_its_own(entries: Any, priority: Any) -> None:
    queue, items = filled(entries)
    below = [i for i in items if i.priority > priority]
    expected = max(below, key=lambda i: (i.priority, i.id), default=None)
    assert queue.displace(priority) is expected


def test_what_does_not_fit_keeps_its_place_and_later_ones_are_taken() -> None:
    queue = RequestQueue(aging=0.5)
    small, large, other = item(0, nodes=1), item(1, nodes=50), item(2, nodes=1)
    for entry in (small, large, other):
        queue.push(entry)
    taken, dropped = queue.fill(None, lambda i: Verdict.SKIP if i.charge > 10 else Verdict.TAKE)
    assert (taken, dropped) == ([small, other], [])
    assert queue.head() is large


def test_cancelling_most_of_a_long_queue_leaves_no_corpses_behind() -> None:
    queue = RequestQueue(aging=0.5)
    items = [item(float(i)) for i in range(1000)]
    for entry in items:
        queue.push(entry)
    for entry in items[:-1]:
        queue.remove(entry)
    assert len(queue._heap) < 200
    assert queue.head() is items[-1]
