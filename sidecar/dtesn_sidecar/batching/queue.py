"""The queue: which request is next, which are ahead of a new one, and which gives way when it is full.

Order is by a key fixed at arrival, so overtaking is bounded by the aging and nothing starves. Whether a request
is admitted at all, and what a batch may hold, is decided elsewhere and passed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import Enum

from .item import PRIORITIES, Item, State

BUCKETS_PER_AGING = 16
LOOK_AHEAD = 64


class Verdict(Enum):
    """What becomes of a queued item that is offered to a batch."""

    TAKE = "take"
    SKIP = "skip"
    DROP = "drop"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Ahead:
    """The queued work at or before a key: items, those of them that run alone, predicted seconds for levels and for nodes."""

    items: int
    direct: int
    fixed: float
    marginal: float


class RequestQueue:
    """Queued items in key order.

    Adding, removing and taking the head cost O(log n) amortised; an item that leaves from the middle is only
    marked, and swept when the marked outnumber the rest.
    """

    def __init__(self, *, aging: float) -> None:
        self._width = max(aging / BUCKETS_PER_AGING, 1e-3)
        self._heap: list[Item] = []
        self._lanes: dict[Hashable, list[Item]] = {}
        self._alone: list[Item] = []
        self._newest: list[list[Item]] = [[] for _ in range(PRIORITIES)]
        self._buckets: dict[int, list[float]] = {}
        self._shapes: dict[Hashable, int] = {}
        self._top = -(2**62)
        self._marked = 0
        self.by_priority = [0] * PRIORITIES
        self.charge_by_priority = [0] * PRIORITIES
        self.fixed = 0.0
        self.marginal = 0.0
        self.direct = 0
        self.items = 0
        self.charge = 0

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self._heap if item.state is State.QUEUED)

    def push(self, item: Item) -> None:
        """Add an item in state QUEUED."""
        heapq.heappush(self._heap, item)
        if item.direct:
            heapq.heappush(self._alone, item)
        else:
            lane = self._lanes.get(item.work.shape)
            if lane is None:
                lane = self._lanes[item.work.shape] = []
            heapq.heappush(lane, item)
        self._newest[item.priority].append(item)
        self._account(item, 1)

    def remove(self, item: Item, state: State = State.LEFT) -> None:
        """Take a queued item out, from wherever it is."""
        item.state = state
        self._account(item, -1)
        self._marked += 1
        if self._marked > self.items + LOOK_AHEAD:
            self._sweep()

    def head(self) -> Item | None:
        """The item with the least key, or None."""
        return _first(self._heap)

    def head_direct(self) -> Item | None:
        """The direct item with the least key, or None."""
        return _first(self._alone)

    def head_shared(self) -> Item | None:
        """The item with the least key that may share a batch, or None. O(shapes queued) where the head is direct."""
        head = self.head()
        if head is None or not head.direct:
            return head
        firsts = (_first(lane) for lane in self._lanes.values())
        return min((first for first in firsts if first is not None), default=None)

    def in_lane(self, shape: Hashable) -> int:
        """How many that may share a batch have this shape."""
        return self._shapes.get(shape, 0)

    def lane(self, shape: Hashable) -> Iterator[Item]:
        """Those that may share a batch of this shape, in no order."""
        return (item for item in self._lanes.get(shape, ()) if item.state is State.QUEUED)

    def fill(self, shape: Hashable, offer: Callable[[Item], Verdict]) -> tuple[list[Item], list[Item]]:
        """Take a batch of this shape in key order over the whole queue; returns (taken, dropped).

        `offer` judges each candidate in turn. What is skipped keeps its place; after LOOK_AHEAD skipped ones the
        batch is closed. Taken items are in state COMPUTING, dropped ones LEFT.
        """
        taken: list[Item] = []
        dropped: list[Item] = []
        if self._marked > self.items + LOOK_AHEAD:
            self._sweep()
        lane = self._lanes.get(shape)
        if lane is None:
            return taken, dropped
        skipped: list[Item] = []
        while lane:
            item = lane[0]
            if item.state is not State.QUEUED:
                heapq.heappop(lane)
                continue
            verdict = offer(item)
            if verdict is Verdict.STOP:
                break
            heapq.heappop(lane)
            if verdict is Verdict.TAKE:
                taken.append(item)
                item.state = State.COMPUTING
                self._account(item, -1)
                self._marked += 1
            elif verdict is Verdict.DROP:
                dropped.append(item)
                item.state = State.LEFT
                self._account(item, -1)
                self._marked += 1
            else:
                skipped.append(item)
                if len(skipped) >= LOOK_AHEAD:
                    break
        for item in skipped:
            heapq.heappush(lane, item)
        if not lane:
            del self._lanes[shape]
        return taken, dropped

    def give_back(self, items: list[Item]) -> None:
        """Return items that the last call was `fill` to take, with the place that their keys give them."""
        for item in items:
            item.state = State.QUEUED
            heapq.heappush(self._lanes.setdefault(item.work.shape, []), item)
            self._account(item, 1)
            self._marked -= 1

    def ahead(self, key: float) -> Ahead:
        """The queued work whose key is at most `key`, to a sixteenth of the aging (never less than it is)."""
        items, direct, fixed, marginal = self.items, self.direct, self.fixed, self.marginal
        if self._bucket(key) >= self._top:  # most arrivals come last
            return Ahead(items, direct, max(fixed, 0.0), max(marginal, 0.0))
        for index in range(self._bucket(key) + 1, self._top + 1):
            bucket = self._buckets.get(index)
            if bucket is not None:
                items -= int(bucket[0])
                fixed -= bucket[1]
                marginal -= bucket[2]
                direct -= int(bucket[3])
        return Ahead(items, direct, max(fixed, 0.0), max(marginal, 0.0))

    def displaceable(self, priority: int) -> tuple[int, int]:
        """(items, charge) of the classes below `priority`, which an arrival of that priority may displace."""
        return sum(self.by_priority[priority + 1 :]), sum(self.charge_by_priority[priority + 1 :])

    def displace(self, priority: int) -> Item | None:
        """Remove and return the newest entry of the lowest class below `priority`, or None."""
        for lower in range(PRIORITIES - 1, priority, -1):
            newest = self._newest[lower]
            while newest:
                item = newest.pop()
                if item.state is State.QUEUED:
                    self.remove(item)
                    return item
        return None

    def _bucket(self, key: float) -> int:
        return int(key // self._width)

    def _account(self, item: Item, sign: int) -> None:
        index = self._bucket(item.key)
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = [0, 0.0, 0.0, 0]
            self._top = max(self._top, index)
        bucket[0] += sign
        bucket[1] += sign * item.fixed
        bucket[2] += sign * item.marginal
        bucket[3] += sign * item.direct
        if not item.direct:
            self._shapes[item.work.shape] = left = self._shapes.get(item.work.shape, 0) + sign
            if not left:
                del self._shapes[item.work.shape]
        if bucket[0] == 0:
            del self._buckets[index]
        self.items += sign
        self.charge += sign * item.charge
        self.by_priority[item.priority] += sign
        self.charge_by_priority[item.priority] += sign * item.charge
        self.direct += sign * item.direct
        if self.items == 0:  # sums of floats drift; an empty queue is the moment to forget that
            self.fixed = self.marginal = 0.0
            self._top = -(2**62)
        else:
            self.fixed += sign * item.fixed
            self.marginal += sign * item.marginal

    def _sweep(self) -> None:
        """Rebuild from the items still queued: O(n), paid for by as many removals."""
        live = [item for item in self._heap if item.state is State.QUEUED]
        heapq.heapify(live)
        self._heap = live
        self._lanes = {}
        self._alone = [item for item in live if item.direct]
        for item in live:
            if not item.direct:
                self._lanes.setdefault(item.work.shape, []).append(item)
        for lane in (self._alone, *self._lanes.values()):
            heapq.heapify(lane)
        for priority in range(PRIORITIES):
            self._newest[priority] = sorted((item for item in live if item.priority == priority), key=lambda item: item.id)
        self._marked = 0


def _first(heap: list[Item]) -> Item | None:
    while heap and heap[0].state is not State.QUEUED:
        heapq.heappop(heap)
    return heap[0] if heap else None
