"""Metrics: counts what the batch manager and the HTTP server tell of, and writes the exposition.

This is the `BatchObserver` of the manager; each of its calls is on the event loop for every request or batch and must be cheap.
What the metrics mean is `catalogue.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dtesn_api import names
from dtesn_sidecar.metrics.gauges import Gauges, collect
from dtesn_sidecar.metrics.metric import PRIORITIES
from dtesn_sidecar.metrics.tallies import Counts, Distribution, Tallied, families

if TYPE_CHECKING:
    from dtesn_sidecar.batching.protocols import BatchDone, Bisected, BreakerChanged, Refused, RequestDone

LAG_INTERVAL: Final = 0.5
OPENMETRICS: Final = "application/openmetrics-text"
_OPENMETRICS_TYPE: Final = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
_QUALITY = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)")


@dataclass(frozen=True, slots=True)
class Totals:
    """Some of what was counted since the start: requests by outcome, batches by why they were closed, times in seconds, batch sizes."""

    requests: Mapping[str, float]
    batches: Mapping[str, float]
    request_seconds: Tallied
    queue_seconds: Tallied
    compute_seconds: Tallied
    batch_size: Tallied


class Metrics:
    """Counts. Call it on the event loop alone."""

    def __init__(self, model: str, gauges: Gauges) -> None:
        self._model = model
        self._requests = Counts(names.METRIC_REQUESTS, model=(model,))
        self._queue = Distribution(names.METRIC_QUEUE_SECONDS)
        self._compute = Distribution(names.METRIC_COMPUTE_SECONDS)
        self._total = Distribution(names.METRIC_REQUEST_SECONDS)
        self._size = Distribution(names.METRIC_BATCH_SIZE)
        self._utilization = Distribution(names.METRIC_BATCH_UTILIZATION)
        self._batches = Counts(names.METRIC_BATCHES)
        self._transitions = Counts(names.METRIC_BREAKER_TRANSITIONS)
        self._direct = Counts(names.METRIC_DIRECT)
        self._misses = Counts(names.METRIC_DEADLINE_MISSES)
        self._cancellations = Counts(names.METRIC_CANCELLATIONS)
        self._nodes = Counts(names.METRIC_NODES)
        self._reload_errors = Counts(names.METRIC_RELOAD_ERRORS)
        self._gap = Distribution(names.METRIC_BATCH_GAP)
        self._lag = Distribution(names.METRIC_LOOP_LAG)
        self._slice = Distribution(names.METRIC_SLICE_SECONDS)
        self._busy = Counts(names.METRIC_WORKER_BUSY)
        self._wait_error = Distribution(names.METRIC_WAIT_ERROR)
        self._refusals = Counts(names.METRIC_REFUSALS)
        self._nodes_for_nobody = Counts(names.METRIC_NODES_FOR_NOBODY)
        self._bisections = Counts(names.METRIC_BISECTION_RUNS)
        self._restarts = Counts(names.METRIC_WORKER_RESTARTS)
        self._items = Counts(names.METRIC_ITEMS)
        self._places = Counts(names.METRIC_PLACES)
        self._responses = Counts(names.METRIC_HTTP_RESPONSES)
        self._calls = Counts(names.METRIC_RPC_CALLS)
        self._disconnects = Counts(names.METRIC_DISCONNECTS)
        self._policy_failures = Counts(names.METRIC_POLICY_FAILURES)
        self._gauges = gauges
        self._registry = CollectorRegistry()
        self._registry.register(_Everything(self))
        ProcessCollector(registry=self._registry)

    # -- what the batch manager tells ----------------------------------------------------------------------------

    def request_done(self, event: RequestDone) -> None:
        """An accepted request has its outcome."""
        self._requests.add(1.0, self._model, PRIORITIES[event.priority], event.outcome)
        self._total.observe(event.total_seconds, None if event.caller is None else event.caller.trace_id)
        if event.batch_items:
            self._queue.observe(event.queue_seconds)
            self._compute.observe(event.compute_seconds)

    def batch_done(self, event: BatchDone) -> None:
        """A batch left its worker."""
        self._batches.add(1.0, event.closed_by)
        self._size.observe(event.items)
        self._nodes.add(event.nodes)
        self._nodes_for_nobody.add(event.nodes_dropped)
        self._busy.add(event.seconds, str(event.worker))
        self._gap.observe(event.gap_seconds)
        if event.places:
            self._utilization.observe(event.items / event.places)
            self._items.add(event.items)
            self._places.add(event.places)
        if event.slices:
            self._slice.observe(event.seconds / event.slices)
        if (error := event.predicted_minus_actual_wait) is not None:
            self._wait_error.of("over" if error > 0 else "under").observe(abs(error))

    def refused(self, event: Refused) -> None:
        """A request was not accepted."""
        self._refusals.add(1.0, event.reason)
        self._requests.add(1.0, self._model, PRIORITIES[event.priority], "refused")

    def breaker_changed(self, event: BreakerChanged) -> None:
        """A circuit breaker changed its state."""
        if event.breaker == "batch":
            self._transitions.add(1.0, event.to)

    def direct(self, reason: str) -> None:
        """A request runs without batching."""
        self._direct.add(1.0, reason)

    def cancelled(self, *, computing: bool) -> None:
        """The caller of an accepted request went away."""
        self._cancellations.add()

    def deadline_missed(self, where: str) -> None:
        """A deadline passed."""
        self._misses.add()

    def bisected(self, event: Bisected) -> None:
        """A failed batch was taken apart."""
        self._bisections.add(event.runs)

    def worker_restarted(self, reason: str) -> None:
        """A worker was lost and replaced."""
        self._restarts.add(1.0, reason)

    def policy_failed(self, policy: str) -> None:
        """A policy raised."""
        self._policy_failures.add(1.0, policy)

    # -- what the server tells -----------------------------------------------------------------------------------

    def answered(self, route: str, status: int) -> None:
        """A response was made. `route` is one of the server's own paths, or a word for all others."""
        self._responses.add(1.0, route, str(status))

    def called(self, method: str, code: str) -> None:
        """A gRPC call ended with that status code, by its name."""
        self._calls.add(1.0, method, code)

    def disconnected(self) -> None:
        """A client went away before its answer."""
        self._disconnects.add()

    def reload_failed(self) -> None:
        """A configuration file was not taken."""
        self._reload_errors.add()

    async def measure_loop_lag(self) -> None:
        """Watch the event loop until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lag.observe(max(0.0, loop.time() - due))

    # -- scrapes -------------------------------------------------------------------------------------------------

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the Accept header prefers, and its content type."""
        if prefers_openmetrics(accept):
            return openmetrics.generate_latest(self._registry), _OPENMETRICS_TYPE  # type: ignore[no-untyped-call]
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_PLAIN_0_0_4

    def totals(self) -> Totals:
        """What the live page shows of the counts, as they are now."""
        return Totals(
            requests=self._requests.by("outcome"),
            batches=self._batches.by("closed_by"),
            request_seconds=self._total.read(),
            queue_seconds=self._queue.read(),
            compute_seconds=self._compute.read(),
            batch_size=self._size.read(),
        )

    def collect(self) -> Iterator[Metric]:
        """Every family, as it is now."""
        snapshot = self._gauges.snapshot()
        for worker in range(snapshot.workers if snapshot is not None else 0):
            self._busy.ensure(str(worker))
        idle = self._gauges.worker_restarts() - sum(self._restarts.by("reason").values())
        if idle > 0:  # died without a batch: nobody was told
            self._restarts.add(idle, "died")
        yield from families(self)
        yield from collect(self._gauges, snapshot)


class _Everything(Collector):
    """The metrics as `prometheus_client` asks for them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept header asks for OpenMetrics at least as much as for the plain text format, which is the default."""
    best = {OPENMETRICS: 0.0, "text/plain": 0.0}
    for part in accept.lower().split(","):
        media = part.partition(";")[0].strip()
        if media in best:
            quality = _QUALITY.search(part)
            best[media] = max(best[media], float(quality[1]) if quality is not None else 1.0)
    return best[OPENMETRICS] > 0.0 and best[OPENMETRICS] >= best["text/plain"]
