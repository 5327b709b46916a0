"""What the manager has measured: arrivals, concurrency, busy time, costs, performance, totals. One place that mutates it.

Decisions are elsewhere; here is only what they look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .admission import Overrun
from .baseline import HandOver, undisturbed
from .batch import Batch, BatchResult
from .cost import CostModels
from .item import Item, State
from .performance import BatchRecord, PerformanceCalculator
from .protocols import Work
from .sizing import low_quantile
from .timeouts import AdaptiveTimeout
from .windows import ArrivalRate, PeakConcurrency, Returning

BUSY_SPAN = 1.0
SMOOTHING = 0.1


class Ledger:
    """The measured state. Every method takes `now`; times in seconds."""

    def __init__(self, performance: PerformanceCalculator, *, workers: int, now: float) -> None:
        self.cost = CostModels()
        self.performance = performance
        self.timeouts = AdaptiveTimeout()
        self.overrun = Overrun()
        self.arrivals = ArrivalRate()
        self.peak = PeakConcurrency()
        self.returning = Returning()
        self.workers = workers
        self.deadline: float | None = None
        self.spread = 1.0
        self.batch_fixed = self.batch_seconds = 0.0
        self.item_marginal = 0.0
        self.last_arrival = now
        self.active = 0
        self.requests = self.items = self.places = self.nodes = 0
        self.running: dict[int, Batch] = {}
        self.computing = 0
        self.free_since = now
        self._busy = 0.0
        self._hand_over = HandOver()
        self._withheld = 0.0
        self._held, self._open = False, 1
        self._now = now
        self.arrivals.advance(now, open_=False)

    def advance(self, now: float, *, queued: int) -> None:
        """Let time pass up to `now`, before anything changes."""
        elapsed = now - self._now
        if elapsed <= 0.0:
            return
        self._now = now
        self.arrivals.advance(now, open_=queued > 0 or self.computing > 0)
        self._busy = self._share() + (self._busy - self._share()) * math.exp(-elapsed / BUSY_SPAN)
        wanted = min(self._open, self.computing + (queued if self._held else 0))
        self._withheld += elapsed * max(0, wanted - len(self.running))

    def decided(self, *, held: bool, places: int) -> None:
        """From now on: whether what is queued is held although a worker is free, and how many batches may run at once."""
        self._held, self._open = held, places

    def accepted(self, now: float, *, queued: int, timeout: float) -> None:
        """A request is accepted, with `queued` others queued before it."""
        self.advance(now, queued=queued)
        if queued > 0 or self.computing > 0:
            self.arrivals.arrived()
        self.returning.arrived(now)
        self.last_arrival = now
        self.deadline = low_quantile(self.deadline, timeout)
        self.active += 1
        self.peak.observe(self.active, now)

    def answered(self, now: float) -> None:
        """An accepted request has its outcome."""
        self.active -= 1
        self.peak.observe(self.active, now)

    def finished(self, item: Item, seconds: float) -> None:
        """An accepted request was answered after `seconds`, or would have taken longer than these: how good the prediction was."""
        if item.predicted_finish is not None:
            self.overrun.finished(seconds, predicted=item.predicted_finish, deadline=item.deadline - item.arrival)

    def started(self, batch: Batch, now: float, *, queued: int) -> None:
        """A batch goes to a worker."""
        self.advance(now, queued=queued)
        self.running[batch.id] = batch
        if batch.idle_probe:
            return
        self.computing += len(batch.items)
        parts = [self.cost.parts(item.work) for item in batch.items]  # by what is known now, not when they came
        fixed = [seconds for seconds, _ in parts]
        if not batch.direct and sum(fixed) > 0.0:
            mean = sum(fixed) / len(fixed)
            self.spread += SMOOTHING * (max(fixed) / mean - self.spread)
        marginal = sum(seconds for _, seconds in parts) / len(parts)
        if sum(fixed) + marginal > 0.0:
            weight = SMOOTHING if self.batch_fixed + self.item_marginal > 0.0 else 1.0
            self.batch_fixed += weight * (max(fixed) - self.batch_fixed)
            self.item_marginal += weight * (marginal - self.item_marginal)
            self.batch_seconds += weight * (max(fixed) + marginal * len(parts) - self.batch_seconds)

    def left_out(self, item: Item) -> None:
        """Its worker computes this one no further, where it was at it."""
        batch = self.running.get(item.batch)
        if batch is not None:
            batch.left_out.add(item.id)

    def ended(self, batch: Batch, now: float, *, queued: int, span: float) -> None:
        """A batch left its worker, however."""
        self.advance(now, queued=queued)
        del self.running[batch.id]
        self.free_since = now
        batch.withheld, self._withheld = self._withheld, 0.0
        if not batch.idle_probe:
            self.computing -= len(batch.items)
            self.returning.answered(len(batch.items), self.arrivals.per_second, span, now)

    def learn(self, batch: Batch, result: BatchResult, now: float) -> bool:
        """Take a complete clean run as a sample of cost, and a run of one as a sample of the baseline."""
        if result.report is None or not result.clean:
            return True
        works = [item.work for item in batch.items]
        self.cost.learn(works, result.report.seconds, now)
        if len(works) == 1:
            hand_over = self._hand_over.observe(max(0.0, result.seconds - result.report.seconds))
            self.performance.baseline(works[0], _undisturbed(result, result.report.seconds + hand_over), now)
        return True

    def record(self, batch: Batch, result: BatchResult, now: float, *, max_batch_size: int, load: float | None) -> float | None:
        """Take a finished batch into the figures; returns its device efficiency."""
        works: Sequence[Work] = [item.work for item in batch.items]
        nodes = result.report.nodes if result.report is not None else sum(work.nodes for work in works)
        self.items += len(works)
        self.places += batch.places
        self.nodes += nodes
        return self.performance.record(
            BatchRecord(
                finished_at=now,
                seconds=result.report.seconds if result.report is not None else result.seconds,
                items=len(works),
                places=batch.places,
                limit=batch.limit,
                max_batch_size=max_batch_size,
                nodes=nodes,
                works=works,
                succeeded=result.succeeded,
                failed=result.failed,
                wait_seconds=sum(batch.started - item.arrival for item in batch.items),
                device_seconds=_undisturbed(result, result.seconds),
                withheld_seconds=_undisturbed(result, batch.withheld),
                complete=result.clean,
                load=load,
            )
        )

    def rest(self, now: float, places: int) -> float:
        """Seconds until a worker is free, as predicted; a batch past its prediction is given a tenth more."""
        if len(self.running) < places:
            return 0.0
        return min([self._rest_of(batch, now) for batch in self.running.values()])

    def forecast(self, now: float, *, left_over: int, places: int, dispatched: int, margin: float) -> int:
        """Items expected at the next dispatch: left over + lambda x time to it, or the clients answered by then who ask again.

        Plus `margin` standard deviations of what is coming (arrivals are Poisson at best).
        """
        until = self.rest(now, places)
        arriving = self.arrivals.per_second * until
        returning = self.returning.expected(now) + self.returning.share * dispatched if until > 0.0 else 0.0
        coming = max(arriving + margin * math.sqrt(arriving), returning)
        return max(1, math.floor(left_over + coming + 1e-9))

    def busy_share(self, now: float) -> float:
        """Share of the workers that were busy, averaged over the last second."""
        return self._share() + (self._busy - self._share()) * math.exp(-max(0.0, now - self._now) / BUSY_SPAN)

    def predict(self, items: Sequence[Item]) -> float | None:
        """Predicted seconds of one batch of these."""
        return self.cost.predict([item.work for item in items])

    def _rest_of(self, batch: Batch, now: float) -> float:
        """Seconds that it still takes, less the share of those that are left out; none where nobody waits for it, but for its slice."""
        if not batch.predicted:
            return 0.0
        rest = max(batch.ends - now, 0.1 * batch.predicted)
        if not batch.left_out:
            return rest
        kept = [item for item in batch.items if item.id not in batch.left_out]
        if not any(item.state is State.COMPUTING for item in kept):
            return 0.0
        return rest * min(1.0, (self.predict(kept) or 0.0) / batch.predicted)

    def _share(self) -> float:
        return min(1.0, len(self.running) / max(1, self.workers))


def _undisturbed(result: BatchResult, seconds: float) -> float:
    """So many seconds, less the share that the run's worker waited for a core."""
    report = result.report
    return seconds if report is None else undisturbed(seconds, report.seconds, report.cpu_seconds)
