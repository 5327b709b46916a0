"""The operator's own metrics, `dtesn_operator_*`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dtesn_api import names

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics and the registry that they are in."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(names.METRIC_OPERATOR_RECONCILES, "Reconciles.", ["outcome"], registry=self.registry)
        self.seconds = Histogram(names.METRIC_OPERATOR_SECONDS, "Seconds of a reconcile.", registry=self.registry, buckets=BUCKETS)
        self.events = Counter(names.METRIC_OPERATOR_EVENTS, "Watch events taken in.", ["kind"], registry=self.registry)
        self.ghosts = Counter(
            names.METRIC_OPERATOR_GHOSTS, "Objects that were found by a resync to have gone without an event.", registry=self.registry
        )
        for outcome in ("ok", "failed"):
            self.reconciles.labels(outcome)

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, words, registry=self.registry).set_function(value)
