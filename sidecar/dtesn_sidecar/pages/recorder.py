"""What the live page shows, from the same figures as `/metrics` and `GET /dtesn/batch_metrics`. Pure; nothing is counted here.

A sample is taken each second. Rates, shares and percentiles are differences between two samples of the counters and histograms
of `/metrics`, as `rate` and `histogram_quantile` in Prometheus are; only the points of the charts are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec.structs import replace

from dtesn_api.wire import BatchMetricsResponse, LatencyFigures, LiveEvent, LivePoint, ManagerFigures, RecentFigures
from dtesn_sidecar.health import Gate, readiness
from dtesn_sidecar.pages.quantiles import mean, quantiles, since

if TYPE_CHECKING:
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.metrics import Totals
    from dtesn_sidecar.metrics.tallies import Tallied

RATE_SECONDS: Final = 10.0
RECENT_SECONDS: Final = 60.0
KEPT_POINTS: Final = 300
"""Five minutes at one a second: what the charts show, and how long a page may be away without a gap in them."""

_ANSWERED: Final = "ok"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a sample is read. `snapshot` is None, and `batch_metrics` not called, before the manager has started."""

    gate: Gate
    snapshot: Callable[[], ManagerSnapshot | None]
    batch_metrics: Callable[[], BatchMetricsResponse]
    totals: Callable[[], Totals]


@dataclass(frozen=True, slots=True)
class _Counted:
    at: float
    totals: Totals


class Recorder:
    """Takes samples and keeps the points of the last five minutes. `at` is monotonic, `time` the wall clock, both in seconds."""

    def __init__(self, sources: Sources, server: str) -> None:
        self._sources, self._server = sources, server
        self._counted: deque[_Counted] = deque()
        self._points: deque[LivePoint] = deque(maxlen=KEPT_POINTS)
        self._now: LiveEvent | None = None
        self.taken = 0

    def take(self, at: float, time: float) -> None:
        """Take a sample."""
        snapshot, counted = self._sources.snapshot(), _Counted(at, self._sources.totals())
        self._counted.append(counted)
        while len(self._counted) > 1 and self._counted[1].at <= at - RECENT_SECONDS:
            self._counted.popleft()
        recent = _recent(counted, self._counted[0])
        short = next(earlier for earlier in reversed(self._counted) if earlier.at <= at - RATE_SECONDS or earlier is self._counted[0])
        self._points.append(_point(time, snapshot, counted, short, recent))
        phase = self._sources.gate.phase
        self._now = LiveEvent(
            server=self._server,
            phase=cast(Any, phase.value),
            reasons=readiness(phase, snapshot),
            inside=self._sources.gate.inside,
            metrics=None if snapshot is None else self._sources.batch_metrics(),
            manager=None if snapshot is None else _manager(snapshot),
            recent=recent,
            points=[],
        )
        self.taken += 1

    def event(self, after: int) -> LiveEvent:
        """Everything as of the last sample, with the points of the samples numbered above `after` that are still kept.

        Raises LookupError before the first sample.
        """
        if self._now is None:
            raise LookupError("no sample was taken yet")
        missing = min(max(0, self.taken - after), len(self._points))
        points = list(islice(reversed(self._points), missing))
        return replace(self._now, points=points[::-1])


def _point(time: float, snapshot: ManagerSnapshot | None, now: _Counted, before: _Counted, recent: RecentFigures | None) -> LivePoint:
    seconds = now.at - before.at
    requests = _increase(now.totals.requests, before.totals.requests)
    answered = requests.pop(_ANSWERED, 0)
    size = mean(since(now.totals.batch_size, before.totals.batch_size))
    return LivePoint(
        time=round(time, 3),
        answered_per_second=_rounded(answered / seconds) if seconds > 0 else None,
        failed_per_second=_rounded(sum(requests.values()) / seconds) if seconds > 0 else None,
        p50_ms=None if recent is None else recent.total.p50_ms,
        p95_ms=None if recent is None else recent.total.p95_ms,
        p99_ms=None if recent is None else recent.total.p99_ms,
        batch_size=None if size is None else _rounded(size),
        limit=None if snapshot is None else snapshot.limit,
        target=None if snapshot is None else snapshot.target,
        load=None if snapshot is None or snapshot.load is None else _rounded(snapshot.load),
        pending=None if snapshot is None else snapshot.pending,
    )


def _recent(now: _Counted, before: _Counted) -> RecentFigures | None:
    if now.at <= before.at:
        return None
    return RecentFigures(
        seconds=round(now.at - before.at, 3),
        requests=_increase(now.totals.requests, before.totals.requests),
        closed_by=_increase(now.totals.batches, before.totals.batches),
        total=_latency(now.totals.request_seconds, before.totals.request_seconds),
        queue=_latency(now.totals.queue_seconds, before.totals.queue_seconds),
        compute=_latency(now.totals.compute_seconds, before.totals.compute_seconds),
    )


def _latency(now: Tallied, before: Tallied) -> LatencyFigures:
    seconds = quantiles(since(now, before), (0.5, 0.95, 0.99))
    p50, p95, p99 = (None if value is None else _rounded(1000.0 * value) for value in seconds)
    return LatencyFigures(p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _increase(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, int]:
    """What was counted in between, of each label; labels of which nothing was are left out."""
    return {label: round(count - before.get(label, 0.0)) for label, count in now.items() if count > before.get(label, 0.0)}


def _manager(snapshot: ManagerSnapshot) -> ManagerFigures:
    return ManagerFigures(
        strategy=snapshot.strategy,
        target_batch_size=snapshot.target,
        places=snapshot.places,
        wait_ms=snapshot.wait_ms,
        workers=snapshot.workers,
        workers_busy=snapshot.workers_busy,
        computing=snapshot.computing,
        pending_by_priority=list(snapshot.pending_by_priority),
        oldest_seconds=snapshot.oldest_seconds,
        predicted_wait_seconds=snapshot.predicted_wait_seconds,
        load=snapshot.load,
        breaker=cast(Any, snapshot.breaker),
        direct_breaker=cast(Any, snapshot.direct_breaker),
        breaker_retry_after_seconds=snapshot.breaker_retry_after,
        baseline_nodes_per_second=snapshot.baseline_nodes_per_second,
        baseline_samples=snapshot.baseline_samples,
        baseline_age_seconds=snapshot.baseline_age_seconds,
        batch_fill=snapshot.batch_fill,
        device_efficiency=snapshot.device_efficiency,
    )


def _rounded(value: float) -> float:
    """Three decimals: a microsecond, a thousandth of a request."""
    return round(value, 3)
