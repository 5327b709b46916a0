"""The snapshot, put together from core, ledger and performance. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from .core import Core
from .ledger import Ledger
from .performance import Performance
from .snapshot import ManagerSnapshot


@dataclass(frozen=True, slots=True)
class Health:
    """What only the manager itself knows."""

    running: bool
    alive: bool
    live: bool
    draining: bool
    default_timeout: float
    performance: str
    policy_failures: int
    last_policy_failure: str | None


def snapshot_of(core: Core, ledger: Ledger, figures: Performance, health: Health, now: float) -> ManagerSnapshot:
    """The manager at `now`."""
    queue = core.queue
    oldest = min((item.arrival for item in queue), default=None)
    circuits = core.circuits
    return ManagerSnapshot(
        running=health.running,
        alive=health.alive,
        live=health.live,
        draining=health.draining,
        strategy=core.strategy.name,
        performance=health.performance,
        limit=core.limit(),
        target=core.base,
        places=core.places,
        wait_ms=core.window * 1000.0,
        concurrency=core.device_places(),
        workers=core.runner.workers,
        workers_busy=len(ledger.running),
        pending=queue.items,
        pending_by_priority=tuple(queue.by_priority),
        pending_nodes=queue.charge,
        active=ledger.active,
        computing=ledger.computing,
        oldest_seconds=0.0 if oldest is None else now - oldest,
        predicted_wait_seconds=core.predicted_wait(now) if ledger.cost.measured else None,
        default_timeout_seconds=health.default_timeout,
        load=core.load,
        avg_load=figures.avg_load,
        busy_share=ledger.busy_share(now),
        arrival_rate=ledger.arrivals.per_second,
        breaker=circuits.state(circuits.batch, now).value,
        direct_breaker=circuits.state(circuits.direct, now).value,
        breaker_retry_after=circuits.batch.retry_after(now) if circuits.enabled else None,
        byte_cap=core.memory.cap(core.runner.byte_cap(), now),
        requests_processed=ledger.requests,
        items_total=ledger.items,
        places_total=ledger.places,
        nodes_total=ledger.nodes,
        avg_batch_size=figures.avg_batch_size,
        batch_utilization=figures.batch_utilization,
        batch_fill=figures.batch_fill,
        device_efficiency=figures.device_efficiency,
        throughput_improvement=figures.throughput_improvement,
        avg_processing_ms=_ms(figures.avg_seconds),
        avg_wait_ms=_ms(figures.avg_wait_seconds),
        success_rate=figures.success_rate,
        failure_rate=None if figures.success_rate is None else 1.0 - figures.success_rate,
        requests_per_second=figures.requests_per_second,
        baseline_nodes_per_second=figures.baseline_nodes_per_second,
        baseline_samples=figures.baseline_samples,
        baseline_age_seconds=figures.baseline_age,
        policy_failures=health.policy_failures,
        last_policy_failure=health.last_policy_failure,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000.0 * seconds
