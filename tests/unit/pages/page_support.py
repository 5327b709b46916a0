"""A manager's snapshot and counts made up for tests of the live page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dtesn_api.wire import BatchMetrics, BatchMetricsResponse
from dtesn_sidecar.batching.protocols import BatchDone, RequestDone, Work
from dtesn_sidecar.batching.snapshot import ManagerSnapshot
from dtesn_sidecar.health import Gate, Phase
from dtesn_sidecar.metrics import Gauges, Metrics
from dtesn_sidecar.pages import Sources

SNAPSHOT = ManagerSnapshot(
    running=True,
    alive=True,
    live=True,
    draining=False,
    strategy="load_aware",
    performance="window",
    limit=8,
    target=6,
    places=4,
    wait_ms=12.5,
    concurrency=2,
    workers=2,
    workers_busy=1,
    pending=3,
    pending_by_priority=(0, 2, 1),
    pending_nodes=30,
    active=5,
    computing=2,
    oldest_seconds=0.25,
    predicted_wait_seconds=None,
    default_timeout_seconds=30.0,
    load=None,
    avg_load=None,
    busy_share=0.0,
    arrival_rate=0.0,
    breaker="half_open",
    direct_breaker="closed",
    breaker_retry_after=0.0,
    byte_cap=None,
    requests_processed=7,
    items_total=0,
    places_total=0,
    nodes_total=0,
    avg_batch_size=None,
    batch_utilization=None,
    batch_fill=None,
    device_efficiency=None,
    throughput_improvement=None,
    avg_processing_ms=None,
    avg_wait_ms=None,
    success_rate=None,
    failure_rate=None,
    requests_per_second=None,
    baseline_nodes_per_second=None,
    baseline_samples=0,
    baseline_age_seconds=None,
    policy_failures=0,
    last_policy_failure=None,
)


def body() -> BatchMetricsResponse:
    """A batch_metrics with nothing measured."""
    metrics = BatchMetrics(
        requests_processed=7,
        avg_batch_size=None,
        throughput_improvement=None,
        avg_server_load=None,
        batch_utilization=None,
        success_rate=None,
        requests_per_second=None,
        avg_processing_time_ms=None,
        avg_batch_wait_time=None,
        failure_rate=None,
        circuit_breaker_open=False,
    )
    return BatchMetricsResponse(
        batching_enabled=True, current_batch_size=8, pending_requests=3, metrics=metrics, server_load={"active_requests": 5}
    )


class World:
    """Real counters, and a snapshot to be set: what the live page reads."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gate.phase = Phase.SERVING
        self.snapshot: ManagerSnapshot | None = SNAPSHOT
        nothing: Any = lambda: None  # noqa: E731
        self.metrics = Metrics("dtesn", Gauges(nothing, lambda: (None, []), nothing, nothing))
        self.sources = Sources(self.gate, lambda: self.snapshot, body, self.metrics.totals)

    def set(self, **changed: Any) -> None:
        """Change the snapshot."""
        self.snapshot = replace(SNAPSHOT, **changed)

    def request(self, outcome: str = "ok", seconds: float = 0.02) -> None:
        """Count a request."""
        self.metrics.request_done(RequestDone(Work(), 1, outcome, seconds / 2, seconds / 2, seconds, 1, False))

    def batch(self, items: int, closed_by: str = "full") -> None:
        """Count a batch."""
        done = dict.fromkeys(BatchDone.__dataclass_fields__, 0) | {"items": items, "closed_by": closed_by, "slices": 1}
        self.metrics.batch_done(BatchDone(**(done | {"predicted_minus_actual_wait": None})))
