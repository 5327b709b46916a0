"""What the last batches achieved, against places and against an unbatched baseline. Pure.

A calculator of one's own implements `PerformanceCalculator` and is passed to the manager, by itself or by a name
in `CALCULATORS`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .baseline import Baseline
from .protocols import Work

MAX_BASELINES = 1024


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One finished batch. Times in seconds, `finished_at` on the manager's clock; `wait_seconds` summed over items.

    `seconds` of compute; `device_seconds` from dispatch to done and `withheld_seconds` of workers idle for its sake, both
    undisturbed (see `baseline`).
    `places` is 0 for a direct run. `complete`: a clean run of all its items, fit to be a sample. `load` is the combined
    load when it ended (None: no data).
    """

    finished_at: float
    seconds: float
    items: int
    places: int
    limit: int
    max_batch_size: int
    nodes: int
    works: Sequence[Work]
    succeeded: int
    failed: int
    wait_seconds: float
    device_seconds: float
    withheld_seconds: float
    complete: bool
    load: float | None


@dataclass(frozen=True, slots=True)
class Performance:
    """Figures over the window of batches; None: not measured yet."""

    avg_batch_size: float | None = None
    batch_utilization: float | None = None
    batch_fill: float | None = None
    device_efficiency: float | None = None
    throughput_improvement: float | None = None
    avg_seconds: float | None = None
    avg_wait_seconds: float | None = None
    success_rate: float | None = None
    requests_per_second: float | None = None
    avg_load: float | None = None
    baseline_nodes_per_second: float | None = None
    baseline_samples: int = 0
    baseline_age: float | None = None


class PerformanceCalculator(Protocol):
    """Takes every batch and every unbatched run; says how well batching does."""

    def record(self, batch: BatchRecord) -> float | None:
        """Take a finished batch; returns its device efficiency (None: not known)."""

    def baseline(self, work: Work, seconds: float, now: float) -> None:
        """Take one complete unbatched run of one item, which kept a worker for that many `undisturbed` seconds."""

    def resize(self, window: int) -> None:
        """`performance_window_size` changed."""

    def figures(self, now: float) -> Performance:
        """The figures over the window."""


@dataclass(frozen=True, slots=True)
class _Kept:
    record: BatchRecord
    alone_seconds: float | None
    efficiency: float | None


@dataclass(slots=True)
class _Sums:
    """Sums over the kept batches, moved by one at a time."""

    batches: int = 0
    items: int = 0
    batched_items: int = 0
    places: int = 0
    capacity: int = 0
    succeeded: int = 0
    failed: int = 0
    seconds: float = 0.0
    wait: float = 0.0
    efficiency: float = 0.0
    efficiencies: int = 0
    load: float = 0.0
    loads: int = 0
    measured: int = 0
    alone: float = 0.0
    together: float = 0.0
    alone_nodes: int = 0

    def move(self, kept: _Kept, sign: int) -> None:
        record = kept.record
        self.batches += sign
        self.items += sign * record.items
        self.succeeded += sign * record.succeeded
        self.failed += sign * record.failed
        self.seconds += sign * record.seconds
        self.wait += sign * record.wait_seconds
        if record.places:
            self.batched_items += sign * record.items
            self.places += sign * record.places
            self.capacity += sign * record.max_batch_size
        if kept.efficiency is not None:
            self.efficiency += sign * kept.efficiency
            self.efficiencies += sign
        if record.load is not None:
            self.load += sign * record.load
            self.loads += sign
        if kept.alone_seconds is not None:
            self.measured += sign
            self.alone += sign * kept.alone_seconds
            self.together += sign * (record.device_seconds + record.withheld_seconds)
            self.alone_nodes += sign * record.nodes


class WindowPerformance:
    """The default: sums over the last `window` batches.

    utilisation = sum of items / sum of places; improvement in percent = 100 (sum of T1(item) / sum of T(batch) - 1)
    over the batches whose T1 is known (direct runs are none), T1 from a fit per (shape, model) of unbatched runs, of which a
    batch of one is itself one; T(batch) includes what was withheld. Efficiency = node rate over the best measured for that shape.
    """

    def __init__(self, window: int = 100) -> None:
        self._window = window
        self._kept: deque[_Kept] = deque()
        self._sums = _Sums()
        self._moves = 0
        self._baselines: OrderedDict[tuple[Hashable, Hashable], Baseline] = OrderedDict()
        self._best: OrderedDict[Hashable, float] = OrderedDict()
        self._samples = 0
        self._sampled_at: float | None = None

    def record(self, batch: BatchRecord) -> float | None:
        """Take a finished batch."""
        efficiency = self._efficiency(batch)
        kept = _Kept(batch, self._alone(batch), efficiency)
        self._kept.append(kept)
        self._sums.move(kept, 1)
        self._moves += 1
        self._trim()
        return efficiency

    def baseline(self, work: Work, seconds: float, now: float) -> None:
        """Take one unbatched run."""
        key = (work.shape, work.model)
        fit = self._baselines.get(key)
        if fit is None:
            fit = self._baselines[key] = Baseline()
            if len(self._baselines) > MAX_BASELINES:
                self._baselines.popitem(last=False)
        fit.learn(work.levels, work.nodes, seconds, now)
        self._samples += 1
        self._sampled_at = now

    def resize(self, window: int) -> None:
        """Keep the last `window`."""
        self._window = window
        self._trim()

    def figures(self, now: float) -> Performance:
        """From the sums: in constant time, since they stand beside every answer."""
        sums = self._sums
        first = self._kept[0].record if self._kept else None
        span = 0.0 if first is None else now - (first.finished_at - first.seconds)
        return Performance(
            avg_batch_size=_ratio(sums.items, sums.batches),
            batch_utilization=_ratio(sums.batched_items, sums.places),
            batch_fill=_ratio(sums.batched_items, sums.capacity),
            device_efficiency=_ratio(sums.efficiency, sums.efficiencies),
            throughput_improvement=100.0 * (sums.alone / sums.together - 1.0) if sums.measured and sums.together > 0.0 else None,
            avg_seconds=_ratio(sums.seconds, sums.batches),
            avg_wait_seconds=_ratio(sums.wait, sums.items),
            success_rate=_ratio(sums.succeeded, sums.succeeded + sums.failed),
            requests_per_second=_ratio(sums.succeeded, span),
            avg_load=_ratio(sums.load, sums.loads),
            baseline_nodes_per_second=_ratio(sums.alone_nodes, sums.alone) if sums.measured else None,
            baseline_samples=self._samples,
            baseline_age=None if self._sampled_at is None else now - self._sampled_at,
        )

    def _trim(self) -> None:
        while len(self._kept) > self._window:
            self._sums.move(self._kept.popleft(), -1)
        if self._moves > self._window:  # sums of floats drift: anew, once per window
            self._moves, self._sums = 0, _Sums()
            for kept in self._kept:
                self._sums.move(kept, 1)

    def _alone(self, batch: BatchRecord) -> float | None:
        if not batch.complete or not batch.places:
            return None
        if batch.items == 1:
            return batch.device_seconds
        total = 0.0
        for work in batch.works:
            fit = self._baselines.get((work.shape, work.model))
            if fit is None:
                return None
            total += fit.predict(work.levels, work.nodes)
        return total

    def _efficiency(self, batch: BatchRecord) -> float | None:
        if not batch.complete or batch.seconds <= 0.0 or not batch.works:
            return None
        shape, rate = batch.works[0].shape, batch.nodes / batch.seconds
        best = self._best.get(shape, 0.0)
        if rate > best:
            best = self._best[shape] = rate
            if len(self._best) > MAX_BASELINES:
                self._best.popitem(last=False)
        return rate / best


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


CALCULATORS: Mapping[str, Callable[[int], PerformanceCalculator]] = {"window": WindowPerformance}
"""Performance calculators by name, each made from `performance_window_size`."""


def make_calculator(performance: str | PerformanceCalculator | None, window: int) -> tuple[str, PerformanceCalculator]:
    """The calculator of that name (None: `window`), or the object itself. ValueError for an unknown name."""
    if performance is None or isinstance(performance, str):
        name = performance or "window"
        if name not in CALCULATORS:
            raise ValueError(f"performance is {name!r}; expected one of {', '.join(sorted(CALCULATORS))} or a PerformanceCalculator")
        return name, CALCULATORS[name](window)
    return type(performance).__name__, performance
