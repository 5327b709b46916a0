"""The figures that HTTP bodies carry, from the manager's snapshot and the load's readings. Pure; nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from dtesn_api.wire import BatchMetrics, BatchMetricsResponse, PerformanceMetrics, ProviderLoad
from dtesn_sidecar.load.readings import NoData
from dtesn_sidecar.load.tracker import ServerLoadTracker

if TYPE_CHECKING:
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.load.readings import SourceState


class LoadSources:
    """A tracker, its `get_current_load`, or any function: the load as a number and by source."""

    def __init__(self, source: ServerLoadTracker | Callable[[], float | None] | None) -> None:
        owner = source if isinstance(source, ServerLoadTracker) else getattr(source, "__self__", None)
        self._tracker = owner if isinstance(owner, ServerLoadTracker) else None
        self.current: Callable[[], float | None] = (
            source.get_current_load if isinstance(source, ServerLoadTracker) else source if source is not None else _nothing
        )
        self._known = source is not None

    def by_name(self) -> dict[str, ProviderLoad]:
        """What each source counts for now; a plain function is a source of its own name."""
        if self._tracker is not None:
            return {state.name: _provider_load(state) for state in self._tracker.readings()}
        if not self._known:
            return {}
        value, name = self.current(), getattr(self.current, "__name__", "load")
        return {name: ProviderLoad(value=value, weight=1.0, reason="the function has no data" if value is None else UNSET)}


def performance_metrics(snapshot: ManagerSnapshot, *, enabled: bool) -> PerformanceMetrics:
    """What stands beside an answer."""
    return PerformanceMetrics(
        batching_enabled=enabled,
        current_batch_size=snapshot.limit,
        batch_throughput_improvement=snapshot.throughput_improvement,
        avg_server_load=snapshot.avg_load,
        pending_requests=snapshot.pending,
    )


def batch_metrics(snapshot: ManagerSnapshot, load: dict[str, ProviderLoad], *, enabled: bool) -> BatchMetricsResponse:
    """The body of `GET /dtesn/batch_metrics`."""
    return BatchMetricsResponse(
        batching_enabled=enabled,
        current_batch_size=snapshot.limit,
        pending_requests=snapshot.pending,
        metrics=BatchMetrics(
            requests_processed=snapshot.requests_processed,
            avg_batch_size=snapshot.avg_batch_size,
            throughput_improvement=snapshot.throughput_improvement,
            avg_server_load=snapshot.avg_load,
            batch_utilization=snapshot.batch_utilization,
            success_rate=snapshot.success_rate,
            requests_per_second=snapshot.requests_per_second,
            avg_processing_time_ms=snapshot.avg_processing_ms,
            avg_batch_wait_time=snapshot.avg_wait_ms,
            failure_rate=snapshot.failure_rate,
            circuit_breaker_open=snapshot.breaker == "open",
        ),
        server_load={"active_requests": snapshot.active, **load},
    )


def _provider_load(state: SourceState) -> ProviderLoad:
    age = UNSET if state.age is None else state.age
    if isinstance(state.result, NoData):
        return ProviderLoad(value=None, age_seconds=age, weight=state.weight, reason=state.result.reason)
    return ProviderLoad(value=state.result.value, age_seconds=age, weight=state.weight)


def _nothing() -> None:
    return None
