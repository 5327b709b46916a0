"""The Prometheus metrics of the sidecar, under the names of `dtesn_api.names`.

What happens is counted as it happens (this is the `BatchObserver` of the manager); what is the case is read at the
scrape. A gauge that is not measured is absent, never 0. Every label has few values, known beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dtesn_api import names
from dtesn_sidecar.load.readings import Reading

if TYPE_CHECKING:
    from dtesn_sidecar.batching.protocols import BatchDone, Bisected, BreakerChanged, Refused, RequestDone
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.load.readings import SourceState

# 1 ms to 60 s, four per decade.
LATENCY_BUCKETS: Final = (
    *(0.001, 0.0018, 0.0032, 0.0056),
    *(0.01, 0.018, 0.032, 0.056),
    *(0.1, 0.18, 0.32, 0.56),
    *(1.0, 1.8, 3.2, 5.6),
    *(10.0, 18.0, 32.0, 60.0),
)
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
RATIO_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
BREAKER_STATES: Final = ("closed", "open", "half_open")
LAG_INTERVAL: Final = 0.5


@dataclass(frozen=True, slots=True)
class Gauges:
    """Where the gauges are read at a scrape. `snapshot` is None before the manager has started."""

    snapshot: Callable[[], ManagerSnapshot | None]
    load: Callable[[], tuple[float | None, list[SourceState]]]
    config_hash: Callable[[], str | None]
    memory_bytes: Callable[[], int | None]


class Metrics:
    """Counts what the batch manager and the HTTP server tell of, and renders the exposition."""

    def __init__(self, model: str, gauges: Gauges) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._model = model

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = LATENCY_BUCKETS) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        self._requests = counter(names.METRIC_REQUESTS, "Requests that ended, by outcome.", ("model", "priority", "outcome"))
        self._queue = histogram(names.METRIC_QUEUE_SECONDS, "Queueing of each computed request.")
        self._compute = histogram(names.METRIC_COMPUTE_SECONDS, "Compute of each computed request.")
        self._total = histogram(names.METRIC_REQUEST_SECONDS, "Accept to answer of each accepted request.")
        self._size = histogram(names.METRIC_BATCH_SIZE, "Items per batch.", SIZE_BUCKETS)
        self._utilization = histogram(names.METRIC_BATCH_UTILIZATION, "Items over places, per batch.", RATIO_BUCKETS)
        self._batches = counter(names.METRIC_BATCHES, "Batches, by why they were closed.", ("closed_by",))
        self._transitions = counter(names.METRIC_BREAKER_TRANSITIONS, "Changes of the circuit breaker.", ("to",))
        self._direct = counter(names.METRIC_DIRECT, "Requests computed without batching.", ("reason",))
        self._misses = counter(names.METRIC_DEADLINE_MISSES, "Deadlines that passed or could no longer be met.")
        self._cancellations = counter(names.METRIC_CANCELLATIONS, "Accepted requests whose caller went away.")
        self._nodes = counter(names.METRIC_NODES, "Nodes computed.")
        self._reload_errors = counter(names.METRIC_RELOAD_ERRORS, "Configuration files that were not taken.")
        self._gap = histogram(names.METRIC_BATCH_GAP, "Idle time of a worker before a batch although requests were queued.")
        self._lag = histogram(names.METRIC_LOOP_LAG, "Lateness of a timer of the event loop, every half second.")
        self._slice = histogram(names.METRIC_SLICE_SECONDS, "Mean slice of each batch.")
        self._busy = counter(names.METRIC_WORKER_BUSY, "Seconds that each worker computed.", ("worker",))
        self._wait_error = Histogram(
            names.METRIC_WAIT_ERROR,
            "Predicted minus actual wait of a batch's head: its size, by whether the prediction was over or under.",
            ("prediction",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._refusals = counter(names.METRIC_REFUSALS, "Requests that were not accepted, by reason.", ("reason",))
        self._nodes_for_nobody = counter(names.METRIC_NODES_FOR_NOBODY, "Nodes computed for requests that were gone before their answer.")
        self._bisections = counter(names.METRIC_BISECTION_RUNS, "Further runs of batches that failed as a whole.")
        self._restarts = counter(names.METRIC_WORKER_RESTARTS, "Workers lost and replaced.", ("reason",))
        self._items = counter(names.METRIC_ITEMS, "Items of dynamic batches; over places, the utilisation.")
        self._places = counter(names.METRIC_PLACES, "Places of dynamic batches.")
        self._responses = counter(names.METRIC_HTTP_RESPONSES, "HTTP responses, by route and status.", ("route", "status"))
        self._disconnects = counter(names.METRIC_DISCONNECTS, "Clients that went away before their answer.")
        self._policy_failures = counter(names.METRIC_POLICY_FAILURES, "Policies that raised.", ("policy",))
        registry.register(_GaugeCollector(gauges))
        ProcessCollector(registry=registry)

    # -- what the batch manager tells ----------------------------------------------------------------------------

    def request_done(self, event: RequestDone) -> None:
        """An accepted request has its outcome."""
        self._requests.labels(self._model, event.priority, event.outcome).inc()
        self._total.observe(event.total_seconds)
        if event.batch_items:
            self._queue.observe(event.queue_seconds)
            self._compute.observe(event.compute_seconds)

    def batch_done(self, event: BatchDone) -> None:
        """A batch left its worker."""
        self._batches.labels(event.closed_by).inc()
        self._size.observe(event.items)
        self._nodes.inc(event.nodes)
        self._nodes_for_nobody.inc(event.nodes_dropped)
        self._busy.labels(event.worker).inc(event.seconds)
        self._gap.observe(event.gap_seconds)
        if event.places:
            self._utilization.observe(event.items / event.places)
            self._items.inc(event.items)
            self._places.inc(event.places)
        if event.slices:
            self._slice.observe(event.seconds / event.slices)
        if (error := event.predicted_minus_actual_wait) is not None:
            self._wait_error.labels("over" if error > 0 else "under").observe(abs(error))

    def refused(self, event: Refused) -> None:
        """A request was not accepted."""
        self._refusals.labels(event.reason).inc()
        self._requests.labels(self._model, event.priority, "refused").inc()

    def breaker_changed(self, event: BreakerChanged) -> None:
        """A circuit breaker changed its state."""
        if event.breaker == "batch":
            self._transitions.labels(event.to).inc()

    def direct(self, reason: str) -> None:
        """A request runs without batching."""
        self._direct.labels(reason).inc()

    def cancelled(self, *, computing: bool) -> None:
        """The caller of an accepted request went away."""
        self._cancellations.inc()

    def deadline_missed(self, where: str) -> None:
        """A deadline passed."""
        self._misses.inc()

    def bisected(self, event: Bisected) -> None:
        """A failed batch was taken apart."""
        self._bisections.inc(event.runs)

    def worker_restarted(self, reason: str) -> None:
        """A worker was lost and replaced."""
        self._restarts.labels(reason).inc()

    def policy_failed(self, policy: str) -> None:
        """A policy raised."""
        self._policy_failures.labels(policy).inc()

    # -- what the server tells -----------------------------------------------------------------------------------

    def answered(self, route: str, status: int) -> None:
        """A response was made. `route` is one of the server's own paths, or a word for all others."""
        self._responses.labels(route, status).inc()

    def disconnected(self) -> None:
        """A client went away before its answer."""
        self._disconnects.inc()

    def reload_failed(self) -> None:
        """A configuration file was not taken."""
        self._reload_errors.inc()

    async def measure_loop_lag(self) -> None:
        """Watch the event loop until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lag.observe(max(0.0, loop.time() - due))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the Accept header prefers, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _GaugeCollector(Collector):
    """What is the case at the moment of the scrape."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            names.METRIC_CONFIG_INFO.removesuffix("_info"), "The configuration in force.", {"hash": self._gauges.config_hash() or "none"}
        )
        if (snapshot := self._gauges.snapshot()) is not None:
            yield from _of_manager(snapshot)
        combined, sources = self._gauges.load()
        yield from _of_load(combined, sources)
        yield from _gauge(names.METRIC_COMPUTE_MEMORY, "Resident memory of the compute workers.", self._gauges.memory_bytes())


def _of_manager(snapshot: ManagerSnapshot) -> Iterator[Metric]:
    yield from _gauge(names.METRIC_BATCH_SIZE_CURRENT, "Limit on items per batch now in force.", snapshot.limit)
    yield from _gauge(names.METRIC_BATCH_SIZE_TARGET, "Base size that the limit is derived from.", snapshot.target)
    yield from _gauge(names.METRIC_PENDING, "Requests queued and not computing.", snapshot.pending)
    yield from _gauge(names.METRIC_OLDEST_QUEUED, "Age of the oldest queued request; 0: none.", snapshot.oldest_seconds)
    yield from _gauge(names.METRIC_BASELINE, "Measured rate without batching.", snapshot.baseline_nodes_per_second)
    yield from _gauge(names.METRIC_BASELINE_SAMPLES, "Runs of one that the baseline was fitted to.", snapshot.baseline_samples)
    yield from _gauge(names.METRIC_BASELINE_AGE, "Age of the baseline's last sample.", snapshot.baseline_age_seconds)
    yield from _gauge(names.METRIC_BATCH_FILL, "Items over max_batch_size, over the last batches.", snapshot.batch_fill)
    efficiency = "Node rate while busy over the best measured for that shape, over the last batches."
    yield from _gauge(names.METRIC_DEVICE_EFFICIENCY, efficiency, snapshot.device_efficiency)
    improvement = snapshot.throughput_improvement
    yield from _gauge(names.METRIC_IMPROVEMENT, "Throughput over unbatched, less 1.", None if improvement is None else improvement / 100)
    breaker = GaugeMetricFamily(names.METRIC_BREAKER_STATE, "1 for the state that the breaker is in.", labels=("state",))
    for state in BREAKER_STATES:
        breaker.add_metric((state,), float(snapshot.breaker == state))
    yield breaker


def _of_load(combined: float | None, sources: list[SourceState]) -> Iterator[Metric]:
    yield from _gauge(names.METRIC_LOAD_COMBINED, "Weighted load of the fresh sources; absent: no data.", combined)
    ratio = GaugeMetricFamily(names.METRIC_LOAD, "Load by source; absent: no data.", labels=("provider",))
    age = GaugeMetricFamily(names.METRIC_LOAD_AGE, "Age of each source's last reading.", labels=("provider",))
    for source in sources:
        if isinstance(source.result, Reading):
            ratio.add_metric((source.name,), source.result.value)
        if source.age is not None:
            age.add_metric((source.name,), source.age)
    yield ratio
    yield age


def _gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(name, text, value)
