"""What the manager shows of itself: one frozen value, taken at one moment.

The HTTP bodies and the metrics are built from this elsewhere; here is no formatting.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completed:
    """The value of one request and how it came about. Times in seconds."""

    value: object
    queue_seconds: float
    compute_seconds: float
    batch_items: int
    closed_by: str
    direct: bool


@dataclass(frozen=True, slots=True)
class ManagerSnapshot:
    """The manager at one moment. None stands for "not measured yet", never a made-up figure.

    State: `running` (between start and stop), `alive` (the loop runs), `live` (False when workers hang again
    and again: liveness must fail), `draining`.
    Sizes: `limit` the batch size in force, `target` the base it is derived from, `places` of the next batch,
    `wait_ms` the window in force, `concurrency` batches at once now allowed.
    Queue: `pending` queued and not computing, by priority in `pending_by_priority`; `active` accepted and
    unanswered; `computing` items in workers. `oldest_seconds` the age of the oldest queued (0: none).
    Averages run over the last `performance_window_size` batches: ratios in [0, 1], `throughput_improvement` in
    percent, times in ms as in `batch_metrics`.
    """

    running: bool
    alive: bool
    live: bool
    draining: bool
    strategy: str
    performance: str
    limit: int
    target: int
    places: int
    wait_ms: float
    concurrency: int
    workers: int
    workers_busy: int
    pending: int
    pending_by_priority: tuple[int, ...]
    pending_nodes: int
    active: int
    computing: int
    oldest_seconds: float
    predicted_wait_seconds: float | None
    default_timeout_seconds: float
    load: float | None
    avg_load: float | None
    busy_share: float
    arrival_rate: float
    breaker: str
    direct_breaker: str
    breaker_retry_after: float | None
    byte_cap: int | None
    requests_processed: int
    items_total: int
    places_total: int
    nodes_total: int
    avg_batch_size: float | None
    batch_utilization: float | None
    batch_fill: float | None
    device_efficiency: float | None
    throughput_improvement: float | None
    avg_processing_ms: float | None
    avg_wait_ms: float | None
    success_rate: float | None
    failure_rate: float | None
    requests_per_second: float | None
    baseline_nodes_per_second: float | None
    baseline_samples: int
    baseline_age_seconds: float | None
    policy_failures: int
    last_policy_failure: str | None

    @property
    def ready(self) -> bool:
        """True where a new request would be taken, a full queue aside."""
        return self.running and self.alive and self.live and not self.draining
