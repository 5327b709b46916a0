"""Exactly one outcome per accepted request. Who decides an outcome is elsewhere; here it is given, once, and told.

Whoever settles an item first (its result, its failure, its deadline, its caller's going away, the end of the
manager) moves it to LEFT and out of `accepted`; from there nothing moves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dtesn_sidecar.errors import DeadlineExceeded, DTESNError

from .item import Item, State
from .protocols import RequestDone
from .snapshot import Completed


class Outcomes:
    """The accepted and unanswered items, their deadline timers, and the outcomes not yet handed over.

    Outcomes are handed over in the next pass of the event loop: by then the next batch has been dispatched.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], done: Callable[[RequestDone], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._done = done
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._outbox: list[tuple[Item, Completed | Exception, str]] = []
        self._emptied: asyncio.Future[None] | None = None
        self.accepted: dict[int, Item] = {}

    def add(self, item: Item, expired: Callable[[Item], None]) -> None:
        """Take an item in; `expired` is called at its deadline unless it is settled by then."""
        self.accepted[item.id] = item
        self._timers[item.id] = self._loop.call_later(item.deadline - item.arrival, expired, item)

    def settle(self, item: Item, outcome: object, kind: str = "") -> bool:
        """Give the item its outcome: a value, or an exception. False where it has one already."""
        if self.accepted.pop(item.id, None) is None:
            return False
        item.state = State.LEFT
        self._timers.pop(item.id).cancel()
        now = self._clock()
        if not self._outbox:
            self._loop.call_soon(self.flush)
        if isinstance(outcome, Exception):
            self._outbox.append((item, outcome, kind or kind_of(outcome)))
        else:
            times = item.dispatched - item.arrival, now - item.dispatched
            self._outbox.append((item, Completed(outcome, *times, item.batch_items, item.closed_by, item.ran_direct), "ok"))
        return True

    def flush(self) -> None:
        """Hand over what is settled. A caller who is no longer there is skipped."""
        outbox, self._outbox = self._outbox, []
        now = self._clock()
        for item, outcome, kind in outbox:
            waiter = item.waiter
            if not waiter.done():
                if isinstance(outcome, Exception):
                    waiter.set_exception(outcome)
                else:
                    waiter.set_result(outcome)
            if item.bulk is not None:
                item.bulk.left_queue()
            queued, computed = item.dispatched - item.arrival, now - item.dispatched
            if not item.batch_items:
                queued, computed = now - item.arrival, 0.0
            direct = item.ran_direct or item.direct
            self._done(
                RequestDone(
                    work=item.work,
                    priority=item.priority,
                    outcome=kind,
                    queue_seconds=queued,
                    compute_seconds=computed,
                    total_seconds=now - item.arrival,
                    batch_items=item.batch_items,
                    direct=direct,
                    batch=item.batch,
                    closed_by=item.closed_by,
                    caller=item.caller,
                )
            )
        if not self.accepted and not self._outbox and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def __len__(self) -> int:
        return len(self.accepted) + len(self._outbox)

    async def empty(self) -> None:
        """Return once nothing is accepted and unanswered."""
        while len(self):
            self._emptied = self._loop.create_future()
            await self._emptied


def kind_of(error: Exception) -> str:
    """The `outcome` of `RequestDone` for an error."""
    if isinstance(error, DeadlineExceeded):
        return "expired"
    if isinstance(error, DTESNError):
        if error.blames_input:
            return "invalid"
        if error.status == 503:
            return "unavailable"
    return "failed"
