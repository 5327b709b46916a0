"""What is the case at the moment of a scrape: gauges, read and not kept. What is not measured is absent, never 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from dtesn_api import names
from dtesn_sidecar.load.readings import Reading
from dtesn_sidecar.metrics.catalogue import METRICS
from dtesn_sidecar.metrics.metric import BREAKER_STATES
from dtesn_sidecar.metrics.tallies import help_of

if TYPE_CHECKING:
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.load.readings import SourceState


@dataclass(frozen=True, slots=True)
class Gauges:
    """Where the gauges are read at a scrape. `snapshot` is None before the manager has started.

    `worker_restarts` counts every worker that was replaced: the manager tells only of those that had a batch.
    """

    snapshot: Callable[[], ManagerSnapshot | None]
    load: Callable[[], tuple[float | None, list[SourceState]]]
    config_hash: Callable[[], str | None]
    memory_bytes: Callable[[], int | None]
    worker_restarts: Callable[[], int] = int


def collect(gauges: Gauges, snapshot: ManagerSnapshot | None) -> Iterator[Metric]:
    """Every gauge that has a value now."""
    info = METRICS[names.METRIC_CONFIG_INFO]
    yield InfoMetricFamily(info.name.removesuffix("_info"), help_of(info), {"hash": gauges.config_hash() or "none"})
    if snapshot is not None:
        yield from _of_manager(snapshot)
    yield from _of_load(*gauges.load())
    yield from _gauge(names.METRIC_COMPUTE_MEMORY, gauges.memory_bytes())


def _of_manager(snapshot: ManagerSnapshot) -> Iterator[Metric]:
    improvement = snapshot.throughput_improvement
    yield from _gauge(names.METRIC_BATCH_SIZE_CURRENT, snapshot.limit)
    yield from _gauge(names.METRIC_BATCH_SIZE_TARGET, snapshot.target)
    yield from _gauge(names.METRIC_PENDING, snapshot.pending)
    yield from _gauge(names.METRIC_OLDEST_QUEUED, snapshot.oldest_seconds)
    yield from _gauge(names.METRIC_BASELINE, snapshot.baseline_nodes_per_second)
    yield from _gauge(names.METRIC_BASELINE_SAMPLES, snapshot.baseline_samples)
    yield from _gauge(names.METRIC_BASELINE_AGE, snapshot.baseline_age_seconds)
    yield from _gauge(names.METRIC_BATCH_FILL, snapshot.batch_fill)
    yield from _gauge(names.METRIC_DEVICE_EFFICIENCY, snapshot.device_efficiency)
    yield from _gauge(names.METRIC_IMPROVEMENT, None if improvement is None else improvement / 100)
    breaker = _family(names.METRIC_BREAKER_STATE)
    for state in BREAKER_STATES:
        breaker.add_metric((state,), float(snapshot.breaker == state))
    yield breaker


def _of_load(combined: float | None, sources: list[SourceState]) -> Iterator[Metric]:
    yield from _gauge(names.METRIC_LOAD_COMBINED, combined)
    ratio, age, up = _family(names.METRIC_LOAD), _family(names.METRIC_LOAD_AGE), _family(names.METRIC_LOAD_UP)
    for source in sources:
        up.add_metric((source.name,), float(isinstance(source.result, Reading)))
        if isinstance(source.result, Reading):
            ratio.add_metric((source.name,), source.result.value)
        if source.age is not None:
            age.add_metric((source.name,), source.age)
    yield ratio
    yield age
    yield up


def _family(name: str) -> GaugeMetricFamily:
    metric = METRICS[name]
    return GaugeMetricFamily(name, help_of(metric), labels=tuple(metric.labels))


def _gauge(name: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        family = _family(name)
        family.add_metric((), value)
        yield family
