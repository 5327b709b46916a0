"""Counters and histograms that cost the event loop little: plain numbers, written and read on the loop alone, without locks.

`prometheus_client` writes the exposition; its own counters take a lock each and look their labels up anew, which was most
of what a request cost to count. Labels are bounded here: a value that the catalogue does not list is counted as `other`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product

from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from dtesn_sidecar.metrics.catalogue import METRICS
from dtesn_sidecar.metrics.metric import OTHER, Metric, Values

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tallied:
    """A histogram at one moment: how many values fell into each bucket since the start (the last is beyond all bounds), and their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Counts:
    """A counter. With label values that are known beforehand, every combination is there from the start, at 0.

    So `rate` and `increase` see the first event too. `most` bounds the combinations of labels whose values are not listed.
    """

    __slots__ = ("_counts", "_listed", "_metric", "_most")

    def __init__(self, name: str, *, most: int = 1024, **given: Values) -> None:
        self._metric = metric = METRICS[name]
        self._most = most
        values = [given.get(label, listed) for label, listed in metric.labels.items()]
        known = [value for value in values if isinstance(value, tuple)]
        self._listed = len(known) == len(values)
        self._counts: dict[Labels, float] = dict.fromkeys(product(*known), 0.0) if self._listed else {}

    def add(self, amount: float = 1.0, *labels: str) -> None:
        """Count `amount` more."""
        counts = self._counts
        if labels in counts:
            counts[labels] += amount
        else:
            self._add_new(amount, labels)

    def ensure(self, *labels: str) -> None:
        """Show this combination, though nothing was counted."""
        self.add(0.0, *labels)

    def by(self, label: str) -> dict[str, float]:
        """What was counted for each value of one label."""
        column, totals = list(self._metric.labels).index(label), dict[str, float]()
        for labels, value in self._counts.items():
            totals[labels[column]] = totals.get(labels[column], 0.0) + value
        return totals

    def _add_new(self, amount: float, labels: Labels) -> None:
        if self._listed or len(self._counts) >= self._most:
            labels = self._bounded(labels)
        self._counts[labels] = self._counts.get(labels, 0.0) + amount

    def _bounded(self, labels: Labels) -> Labels:
        seen = [set(column) for column in zip(*self._counts, strict=True)]
        return tuple(value if value in known else OTHER for value, known in zip(labels, seen, strict=True))

    def family(self) -> CounterMetricFamily:
        """What a scrape gets."""
        family = CounterMetricFamily(self._metric.name, help_of(self._metric), labels=tuple(self._metric.labels))
        for labels, value in self._counts.items():
            family.add_metric(labels, value)
        return family


class _Tally:
    """One histogram: counts by bucket (the last is beyond all bounds), their sum, and one exemplar for each bucket."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count a value. `trace_id`: where it can be looked at."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if trace_id is not None:
            self._exemplars[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def read(self) -> Tallied:
        """As it is now."""
        return Tallied(self._bounds, tuple(self._counts), self._sum)

    def add_to(self, family: HistogramMetricFamily, labels: Labels) -> None:
        totals = accumulate(self._counts)
        bounds = (*map(floatToGoString, self._bounds), "+Inf")
        buckets = [(bound, float(total), self._exemplars.get(i)) for i, (bound, total) in enumerate(zip(bounds, totals, strict=True))]
        family.add_metric(labels, [(bound, total) if it is None else (bound, total, it) for bound, total, it in buckets], self._sum)


class Distribution:
    """A histogram, in the buckets of its metric."""

    __slots__ = ("_by_labels", "_metric", "observe", "read")

    def __init__(self, name: str) -> None:
        self._metric = metric = METRICS[name]
        known = [value for value in metric.labels.values() if isinstance(value, tuple)]
        self._by_labels = {labels: _Tally(metric.buckets) for labels in product(*known)}
        if not metric.labels:
            self.observe = self._by_labels[()].observe
            self.read = self._by_labels[()].read

    def of(self, *labels: str) -> _Tally:
        """The histogram of these label values, which the catalogue lists."""
        return self._by_labels[labels]

    def family(self) -> HistogramMetricFamily:
        """What a scrape gets."""
        family = HistogramMetricFamily(self._metric.name, help_of(self._metric), labels=tuple(self._metric.labels))
        for labels, tally in self._by_labels.items():
            tally.add_to(family, labels)
        return family


Family = CounterMetricFamily | HistogramMetricFamily


def families(holder: object) -> Iterator[Family]:
    """The families of every counter and histogram that is an attribute of the object, in the order they were set."""
    for value in vars(holder).values():
        if isinstance(value, Counts | Distribution):
            yield value.family()


def help_of(metric: Metric) -> str:
    """The help text of the exposition."""
    return f"{metric.meaning}; absent {metric.absent}." if metric.absent else f"{metric.meaning}."
