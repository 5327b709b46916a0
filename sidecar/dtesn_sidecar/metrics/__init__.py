"""The sidecar's Prometheus metrics: `catalogue` says what there is, `tallies` count, `observer` is told, `gauges` read at a scrape."""

from dtesn_sidecar.metrics.gauges import Gauges
from dtesn_sidecar.metrics.observer import Metrics, Totals

__all__ = ["Gauges", "Metrics", "Totals"]
