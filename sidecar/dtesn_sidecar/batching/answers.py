"""How requests end: settled with a result, withdrawn by their caller, expired, hopeless, or failed with the manager.

`outcomes` sees to it that there is exactly one; here are its consequences for the queue, the worker and the figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from dtesn_sidecar.errors import DeadlineExceeded

from .core import Core
from .entrance import retry
from .item import Item, State
from .outcomes import Outcomes
from .watch import Watch


class Answers:
    """Gives items their outcomes. `clock` is the manager's, `rng` gives the jitter of Retry-After."""

    def __init__(self, core: Core, outcomes: Outcomes, watch: Watch, clock: Callable[[], float], rng: random.Random) -> None:
        self._core, self._outcomes, self._watch, self._clock, self._rng = core, outcomes, watch, clock, rng

    def retry_after(self) -> float:
        """Seconds after which a refused client should ask again."""
        return 1.0 if self._core.draining else retry(self._core, self._clock(), self._rng.random())

    def settle(self, item: Item, outcome: object, kind: str = "") -> None:
        """Give the item its outcome, unless it has one."""
        core = self._core
        if item.state is State.QUEUED:
            core.queue.remove(item)
        if self._outcomes.settle(item, outcome, kind):
            now = self._clock()
            core.ledger.answered(now)
            if not isinstance(outcome, Exception):
                core.ledger.requests += 1
                core.ledger.timeouts.finished(now - item.arrival, now)
                core.ledger.finished(item, now - item.arrival)

    def withdraw(self, item: Item, error: Exception, kind: str) -> None:
        """The caller has gone, or its deadline has come: whether queued or computing, the item leaves."""
        state = item.state
        if state is State.LEFT:
            return
        self.settle(item, error, kind)
        if kind == "cancelled":
            self._watch.tell(self._watch.observer.cancelled, computing=state is State.COMPUTING)
        if state is State.COMPUTING:
            self._drop(item)

    def expired(self, item: Item) -> None:
        """The deadline has come."""
        computing = item.state is State.COMPUTING
        self._missed(item, "computing" if computing else "queued")
        if computing:  # first, for what it would still have taken is not to be waited for
            self._drop(item)
        self.settle(item, self._too_late(item, f"no answer within {item.deadline - item.arrival:.3f} s"), "expired")

    def hopeless(self, item: Item, where: str) -> None:
        """The deadline can no longer be met: found at dispatch, or between two slices by the worker."""
        self._missed(item, where)
        self._core.ledger.left_out(item)
        self.settle(item, self._too_late(item, "the deadline can no longer be met"), "expired")

    def fail(self, items: Iterable[Item], error: Exception) -> None:
        """All of these end with this error."""
        for item in list(items):
            self.withdraw(item, error, "")

    def fail_all(self, error: Exception) -> None:
        """Everything accepted ends with this error."""
        self.fail(self._outcomes.accepted.values(), error)

    def _drop(self, item: Item) -> None:
        if self._core.runner.drop([item.id]):
            self._core.ledger.left_out(item)

    def _too_late(self, item: Item, detail: str) -> DeadlineExceeded:
        error, now = DeadlineExceeded(detail, retry_after=self.retry_after()), self._clock()
        queued = (item.dispatched if item.batch_items else now) - item.arrival
        error.spent = queued, now - item.arrival - queued, item.batch_items, item.closed_by
        return error

    def _missed(self, item: Item, where: str) -> None:
        self._watch.tell(self._watch.observer.deadline_missed, where)
        self._core.ledger.finished(item, item.deadline - item.arrival)
        self._core.ledger.timeouts.shed(self._clock())
