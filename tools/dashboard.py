"""examples/monitoring/dashboard.json: the Grafana dashboard, from the table of panels below.

A panel's description is what the catalogue says of its metrics. Every query of it is run in the tests against a real Prometheus
that scraped a real sidecar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dtesn_sidecar.metrics.catalogue import METRICS

SCHEMA_VERSION: Final = 39  # Grafana 11; newer ones migrate it
COLUMNS: Final = 24
HEIGHT: Final = 8
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
PODS: Final = 'pod=~"$pod"'
MODEL: Final = f'model=~"$model", {PODS}'
ANSWERED: Final = f'{MODEL}, outcome="ok"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its queries by legend, the unit of its axis, and its width in columns of 24."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    most: float | None = None
    stacked: bool = False
    signed: bool = False
    words: str = ""


def rate(metric: str, *by: str, labels: str = PODS) -> str:
    """Per second, summed over everything but `by`."""
    grouping = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouping} (rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, metric: str, *by: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le', *by)})"


def quantiles(metric: str, *shares: float) -> dict[str, str]:
    """Several quantiles of a histogram, by their legends."""
    return {f"p{100 * share:g}": quantile(share, metric) for share in shares}


def gauge(metric: str, how: str, *by: str, labels: str = PODS) -> str:
    """A gauge over the pods."""
    return f"{how} by ({', '.join(by)}) ({metric}{{{labels}}})" if by else f"{how}({metric}{{{labels}}})"


ROWS: Final[Mapping[str, tuple[Panel, ...]]] = {
    "Traffic": (
        Panel(
            "Requests by outcome",
            {"{{outcome}}": rate("dtesn_requests_total", "outcome", labels=MODEL)},
            "reqps",
            12,
            stacked=True,
        ),
        Panel(
            "Requests by priority",
            {"priority {{priority}}": rate("dtesn_requests_total", "priority", labels=MODEL)},
            "reqps",
            6,
            stacked=True,
        ),
        Panel(
            "Answered",
            {"answered": f"{rate('dtesn_requests_total', labels=ANSWERED)} / {rate('dtesn_requests_total', labels=MODEL)}"},
            "percentunit",
            6,
            kind="stat",
        ),
        Panel("Refusals by reason", {"{{reason}}": rate("dtesn_refusals_total", "reason")}, "reqps", 6, stacked=True),
        Panel(
            "Responses by status",
            {
                "{{status}}": rate("dtesn_http_responses_total", "status"),
                "gRPC {{code}}": rate("dtesn_grpc_calls_total", "code"),
            },
            "reqps",
            6,
            stacked=True,
        ),
        Panel(
            "Clients that went away",
            {"disconnected": rate("dtesn_http_disconnects_total"), "accepted before": rate("dtesn_cancellations_total")},
            "reqps",
            6,
        ),
        Panel("Without batching", {"{{reason}}": rate("dtesn_direct_requests_total", "reason")}, "reqps", 6, stacked=True),
    ),
    "Latency": (
        Panel("Accept to answer", quantiles("dtesn_request_seconds", 0.5, 0.9, 0.99), "s"),
        Panel("Queueing", quantiles("dtesn_queue_seconds", 0.5, 0.9, 0.99), "s"),
        Panel("Compute", quantiles("dtesn_compute_seconds", 0.5, 0.9, 0.99), "s"),
        Panel(
            "Accept to answer, all of it",
            {"{{le}}": f"sum by (le) (increase(dtesn_request_seconds_bucket{{{PODS}}}[$__rate_interval]))"},
            "s",
            kind="heatmap",
        ),
        Panel(
            "Deadline misses and the oldest queued",
            {"misses per second": rate("dtesn_deadline_misses_total"), "oldest queued, s": gauge("dtesn_oldest_queued_seconds", "max")},
        ),
        Panel(
            "Error of the predicted wait, p90",
            {"{{prediction}}": quantile(0.9, "dtesn_wait_error_seconds", "prediction")},
            "s",
        ),
    ),
    "Batching": (
        Panel(
            "Batch size",
            {
                "mean": f"{rate('dtesn_batch_size_sum')} / {rate('dtesn_batch_size_count')}",
                "limit": gauge("dtesn_batch_size_current", "avg"),
                "target": gauge("dtesn_batch_size_target", "avg"),
            },
        ),
        Panel("Why batches were closed", {"{{closed_by}}": rate("dtesn_batches_total", "closed_by")}, "ops", stacked=True),
        Panel("Queued", {"{{pod}}": gauge("dtesn_pending_requests", "sum", "pod")}),
        Panel(
            "Utilisation",
            {
                "items over places": f"{rate('dtesn_batch_items_total')} / {rate('dtesn_batch_places_total')}",
                "items over maxBatchSize": gauge("dtesn_batch_fill_ratio", "avg"),
                "device efficiency": gauge("dtesn_device_efficiency_ratio", "avg"),
                "median of batches": quantile(0.5, "dtesn_batch_utilization_ratio"),
            },
            "percentunit",
            most=1.0,
        ),
        Panel("Throughput improvement", {"{{pod}}": gauge("dtesn_throughput_improvement_ratio", "avg", "pod")}, "percentunit", signed=True),
        Panel(
            "Nodes per second",
            {
                "computed": rate("dtesn_nodes_total"),
                "for nobody": rate("dtesn_nodes_for_nobody_total"),
                "baseline of one worker": gauge("dtesn_baseline_nodes_per_second", "avg"),
            },
        ),
        Panel(
            "What the improvement is measured against",
            {"samples": gauge("dtesn_baseline_samples", "min"), "age, s": gauge("dtesn_baseline_age_seconds", "max")},
        ),
        Panel("Gap before a batch", quantiles("dtesn_batch_gap_seconds", 0.5, 0.99), "s"),
        Panel("Slice", quantiles("dtesn_slice_seconds", 0.5, 0.99), "s"),
    ),
    "Load": (
        Panel("Load, combined", {"{{pod}}": gauge("dtesn_load_combined_ratio", "avg", "pod")}, "percentunit", 6, most=1.0),
        Panel("Load by source", {"{{provider}}": gauge("dtesn_load_ratio", "avg", "provider")}, "percentunit", 6, most=1.0),
        Panel("Age of the last reading", {"{{provider}}": gauge("dtesn_load_age_seconds", "max", "provider")}, "s", 6),
        Panel(
            "Share of pods whose source has data", {"{{provider}}": gauge("dtesn_load_up", "avg", "provider")}, "percentunit", 6, most=1.0
        ),
    ),
    "Failures": (
        Panel(
            "Circuit breaker",
            {"{{pod}} {{state}}": gauge("dtesn_breaker_state", "max", "pod", "state", labels=f'{PODS}, state!="closed"')},
            kind="state-timeline",
        ),
        Panel("Changes of the breaker", {"to {{to}}": rate("dtesn_breaker_transitions_total", "to")}, "ops"),
        Panel("Runs to take failed batches apart", {"runs": rate("dtesn_bisection_runs_total")}, "ops"),
        Panel("Workers lost", {"{{reason}}": rate("dtesn_worker_restarts_total", "reason")}, "ops"),
        Panel("Policies that raised", {"{{policy}}": rate("dtesn_policy_failures_total", "policy")}, "ops"),
        Panel("Configuration files not taken", {"files": rate("dtesn_config_reload_errors_total")}, "ops"),
    ),
    "Resources": (
        Panel(
            "Busy share of the workers",
            {"{{pod}}": f"avg by (pod) (rate(dtesn_worker_busy_seconds_total{{{PODS}}}[$__rate_interval]))"},
            "percentunit",
            6,
            most=1.0,
        ),
        Panel("Memory of the workers", {"{{pod}}": gauge("dtesn_compute_memory_bytes", "sum", "pod")}, "bytes", 6),
        Panel(
            "CPU of the event loop",
            {"{{pod}}": rate("process_cpu_seconds_total", "pod") + " and on (pod) dtesn_batch_size_current"},
            "percentunit",
            6,
            words="Of the main process. Near 100 % the event loop, which is one core, is the bottleneck.",
        ),
        Panel("Lateness of the event loop", quantiles("dtesn_loop_lag_seconds", 0.5, 0.99), "s", 6),
        Panel("Configuration in force", {"{{hash}}": gauge("dtesn_config_info", "count", "hash")}, "short", 12, stacked=True),
        Panel(
            "Memory and files of the main process",
            {
                "{{pod}} bytes": gauge("process_resident_memory_bytes", "sum", "pod") + " and on (pod) dtesn_batch_size_current",
                "{{pod}} open files": gauge("process_open_fds", "sum", "pod") + " and on (pod) dtesn_batch_size_current",
            },
            width=12,
            words="Of the main process, without its workers.",
        ),
    ),
}


def dashboard() -> str:
    """The whole document."""
    document = {
        "annotations": {"list": []},
        "description": "Dynamic batching of dtesn-batcher's sidecars. Targets need a pod label.",
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [],
        "panels": list(_panels()),
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["dtesn"],
        "templating": {"list": [_datasource(), _variable("model", ""), _variable("pod", '{model=~"$model"}')]},
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": "dtesn-batcher",
        "uid": "dtesn-batcher",
        "version": 1,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in ROWS.items():
        yield {
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
            "id": number,
            "panels": [],
            "title": title,
            "type": "row",
        }
        number, top, left = number + 1, top + 1, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                left, top = 0, top + HEIGHT
            yield _panel(panel, number, left, top)
            number, left = number + 1, left + panel.width
        top += HEIGHT


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "description": panel.words or _description(panel),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "gridPos": {"h": HEIGHT, "w": panel.width, "x": left, "y": top},
        "id": number,
        "options": _options(panel),
        "targets": [_target(panel, "ABCDEFGH"[i], *query) for i, query in enumerate(panel.queries.items())],
        "title": panel.title,
        "type": panel.kind,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    if panel.kind == "state-timeline":
        steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
        words = {"0": {"index": 0, "text": "no"}, "1": {"index": 1, "text": "yes"}}
        return {
            "color": {"mode": "thresholds"},
            "custom": {"fillOpacity": 80, "lineWidth": 0},
            "mappings": [{"options": words, "type": "value"}],
            "thresholds": {"mode": "absolute", "steps": steps},
        }
    defaults: dict[str, Any] = {"unit": panel.unit}
    if not panel.signed:
        defaults["min"] = 0
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        stacking = {"group": "A", "mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 0, "showPoints": "never", "stacking": stacking}
    return defaults


def _target(panel: Panel, reference: str, legend: str, query: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "exemplar": panel.kind == "timeseries" and "dtesn_request_seconds_bucket" in query,
        "expr": query,
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
        "instant": panel.kind == "stat",
        "legendFormat": legend,
        "range": panel.kind != "stat",
        "refId": reference,
    }


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
    if panel.kind == "timeseries":
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 32}}
    if panel.kind == "stat":
        return {"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return {"legend": legend, "mergeValues": True, "showValue": "never", "rowHeight": 0.9}


def _description(panel: Panel) -> str:
    """What the catalogue says of the metrics in the queries."""
    names = re.findall(r"\b(?:dtesn|process)_\w+", " ".join(panel.queries.values()))
    found: dict[str, str] = {}
    for name in names:
        metric = METRICS.get(name) or METRICS.get(re.sub(r"_(bucket|sum|count)$", "", name))
        if metric is not None:
            found[metric.name] = f"{metric.meaning}. {metric.use}"
    return "\n\n".join(found.values())


def _datasource() -> dict[str, Any]:
    return {
        "current": {},
        "hide": 0,
        "label": "Data source",
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "type": "datasource",
    }


def _variable(label: str, selector: str) -> dict[str, Any]:
    query = f"label_values(dtesn_requests_total{selector}, {label})"
    return {
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": DATASOURCE,
        "definition": query,
        "hide": 0,
        "includeAll": True,
        "label": label.capitalize(),
        "multi": True,
        "name": label,
        "options": [],
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "type": "query",
    }
