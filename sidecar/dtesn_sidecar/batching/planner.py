"""Which batch runs next, with which members, over the manager's state. No asyncio, `now` passed in.

Each rule lives in a policy; this joins them. Futures, timers and workers are the dispatcher's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

from .batch import Batch
from .budget import Filling, prefix_within
from .core import Core
from .item import Item, State
from .queue import Verdict
from .sizing import longest_batch
from .strategies import Hold, WindowView
from .windows import always_closed

FULL_LOOK = 1.1
"""A batch must start this many times its predicted seconds before its tightest deadline."""


def choose(core: Core, now: float) -> tuple[Batch | Hold | None, list[Item]]:
    """The next batch, a hold, or None (nothing to do until something changes); and the items dropped as hopeless."""
    core.ledger.advance(now, queued=core.queue.items)
    dropped: list[Item] = []
    while True:
        before = len(dropped)
        chosen = _choose(core, now, dropped)
        if chosen is not None or len(dropped) == before:
            return chosen, dropped


def urgent(core: Core, item: Item, until: float) -> bool:
    """Whether a new item must be looked at before the hold ends: it comes first, runs alone, or has a near deadline."""
    seconds = core.ledger.batch_fixed + core.config.max_batch_size * core.ledger.item_marginal
    return item.direct or item.deadline - FULL_LOOK * seconds < until or core.queue.head() is item


def idle_probe(core: Core, item: Item, now: float) -> Batch:
    """A run of one for the baseline, which nobody waits for."""
    batch = _batch(core, now, [item], places=0, reason="baseline")
    batch.idle_probe, item.batch = True, batch.id
    core.ledger.started(batch, now, queued=core.queue.items)
    return batch


def _choose(core: Core, now: float, dropped: list[Item]) -> Batch | Hold | None:
    """As `choose`, which asks again where None comes with something dropped."""
    queue, circuits = core.queue, core.circuits
    free = core.device_places() - len(core.ledger.running)
    head = queue.head()
    if head is None or free <= 0:
        return None
    allowed = circuits.allows_direct(now)
    if circuits.falls_back(now):
        if not head.direct and core.fallbacks_running() >= core.max_direct():
            head = queue.head_direct()
        return _alone(core, head, now, dropped) if head is not None and allowed else _until_probe(core, now)
    if head.direct and allowed:
        return _alone(core, head, now, dropped)
    shared = queue.head_shared()
    if shared is None:
        return _until_probe(core, now)
    chosen = _shared(core, shared, free, now, dropped)
    if isinstance(chosen, Hold) and allowed and (alone := queue.head_direct()) is not None:
        return _alone(core, alone, now, dropped)  # the device is not kept from those that share with nobody
    return chosen


def _shared(core: Core, head: Item, free: int, now: float, dropped: list[Item]) -> Batch | Hold | None:
    wait = core.tick(now)
    limit = core.limit()
    places = max(1, min(core.places, limit)) if core.by_forecast else limit
    in_hand = core.queue.in_lane(head.work.shape)
    if core.circuits.wants_probe(now):
        batch = _fill(core, head, now, wait, places=places, reason="probe", dropped=dropped)
        if batch is not None:
            batch.probe = True
            core.circuits.batch.probe_started()
        return batch
    view = _window_view(core, head, now, places, in_hand)
    decision = always_closed(view) or core.strategy.close(view)
    if isinstance(decision, Hold):
        if not math.isfinite(decision.until):
            raise ValueError(f"not a time to hold until: {decision}")
        return decision
    if core.by_forecast and free > 1:  # several devices are free: what is there is shared out among them
        places = min(places, math.ceil(in_hand / free))
    return _fill(core, head, now, wait, places=places, reason=decision.reason, dropped=dropped)


def _fill(core: Core, head: Item, now: float, wait: float, *, places: int, reason: str, dropped: list[Item]) -> Batch | None:
    queue, config, ledger = core.queue, core.config, core.ledger
    backlog = wait > config.max_batch_wait_ms / 1000.0
    lone = _lone(core)
    mean_fixed = ledger.spread * queue.fixed / queue.items
    fixed, marginal = ledger.cost.parts(head.work)
    longest = longest_batch(config.max_batch_seconds, fixed=fixed, marginal=marginal, split_seen=ledger.cost.split_seen(head.work))
    expected = min(longest, mean_fixed + min(places, queue.items) * queue.marginal / queue.items) if backlog else 0.0
    filling = Filling(items_max=places, charge_max=config.max_batch_nodes, seconds_max=longest, now=now)
    parts = ledger.cost.parts

    def offer(item: Item) -> Verdict:
        if filling.full:
            return Verdict.STOP
        fixed, marginal = parts(item.work)
        own = max(fixed + marginal, expected * min(1.0, fixed / mean_fixed) if mean_fixed > 0.0 else expected)
        if now + own > item.deadline and not lone:
            return Verdict.DROP
        if not filling.fits(item.charge, fixed, marginal):
            filling.closed_by = "nodes"
            return Verdict.SKIP
        if not backlog and filling.items and not filling.keeps_deadlines(item.deadline, fixed, marginal):
            filling.closed_by = "deadline"
            return Verdict.SKIP
        filling.add(item.charge, fixed, marginal, item.deadline)
        return Verdict.TAKE

    items, hopeless = queue.fill(head.work.shape, offer)
    dropped += hopeless
    cap = core.memory.cap(core.runner.byte_cap(), now)
    kept = prefix_within([item.work for item in items], core.runner.bytes_of, cap)
    if kept < len(items):
        queue.give_back(items[kept:])
        items, filling.closed_by = items[:kept], "nodes"
    return _go(core, _batch(core, now, items, places=places, reason=filling.closed_by or reason), now) if items else None


def _alone(core: Core, item: Item, now: float, dropped: list[Item]) -> Batch | None:
    fixed, marginal = core.ledger.cost.parts(item.work)
    if now + fixed + marginal > item.deadline and not _lone(core):
        core.queue.remove(item)
        dropped.append(item)
        return None
    core.queue.remove(item, State.COMPUTING)
    batch = _batch(core, now, [item], places=0, reason="direct" if item.direct else "breaker")
    batch.direct, batch.fallback = True, not item.direct
    batch.probe = core.circuits.direct.wants_probe(now)
    if batch.probe:
        core.circuits.direct.probe_started()
    return _go(core, batch, now)


def _lone(core: Core) -> bool:
    """On an idle device a pessimistic prediction must stay refutable: what is alone there is not dropped."""
    return core.queue.items == 1 and not core.ledger.computing


def _batch(core: Core, now: float, items: list[Item], *, places: int, reason: str) -> Batch:
    first = items[0]
    error = None if first.predicted_wait is None else first.predicted_wait - (now - first.arrival)
    gap = now - max(core.ledger.free_since, min([item.arrival for item in items]))
    return Batch(next(core.ids), items, places, core.limit(), reason, now, core.ledger.predict(items), max(0.0, gap), wait_error=error)


def _go(core: Core, batch: Batch, now: float) -> Batch:
    for item in batch.items:
        item.dispatched, item.batch_items = now, len(batch.items)
        item.closed_by, item.ran_direct, item.batch = batch.closed_by, batch.direct, batch.id
    core.ledger.started(batch, now, queued=core.queue.items)
    core.next_places(len(batch.items), now)
    return batch


def _until_probe(core: Core, now: float) -> Hold | None:
    after = core.circuits.until_probe(now)
    return None if after is None else Hold(now + after, sys.maxsize)


def _window_view(core: Core, head: Item, now: float, places: int, in_hand: int) -> WindowView:
    queue, ledger = core.queue, core.ledger
    marginal = queue.marginal / queue.items
    seconds = ledger.spread * queue.fixed / queue.items + marginal * min(in_hand, places)
    tightest, opened = math.inf, head.arrival
    if in_hand < places:  # so there are few of them
        tightest, opened = _tightest_and_oldest(queue.lane(head.work.shape), opened)
    return WindowView(
        now=now,
        in_hand=in_hand,
        opened=opened,
        held_since=max(ledger.free_since, opened),
        last_arrival=ledger.last_arrival,
        places=places,
        peak=ledger.peak.peak(now),
        computing=ledger.computing,
        returning=ledger.returning.expected(now),
        rate=core.rate(),
        batch_seconds=seconds,
        per_item_seconds=marginal,
        shortest=core.returning_span,
        window=core.window,
        latest=tightest - FULL_LOOK * seconds,
        draining=core.draining,
    )


def _tightest_and_oldest(items: Iterator[Item], oldest: float) -> tuple[float, float]:
    tightest = math.inf
    for item in items:
        tightest = min(tightest, item.deadline)
        oldest = min(oldest, item.arrival)
    return tightest, oldest
