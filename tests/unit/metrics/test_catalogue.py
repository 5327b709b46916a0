"""The catalogue of metrics agrees with the contract's names and with the habits of Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtesn_api import names
from dtesn_sidecar.metrics.catalogue import METRICS
from dtesn_sidecar.metrics.metric import LATENCY_BUCKETS, Metric

ROOT = Path(__file__).resolve().parents[3]


# The names that users have, written out once more: whoever renames one must come by here.
CONTRACT: dict[str, tuple[str, set[str]]] = {
    "dtesn_requests_total": ("counter", {"model", "priority", "outcome"}),
    "dtesn_queue_seconds": ("histogram", set()),
    "dtesn_compute_seconds": ("histogram", set()),
    "dtesn_request_seconds": ("histogram", set()),
    "dtesn_batch_size": ("histogram", set()),
    "dtesn_batch_utilization_ratio": ("histogram", set()),
    "dtesn_batch_size_current": ("gauge", set()),
    "dtesn_batch_size_target": ("gauge", set()),
    "dtesn_pending_requests": ("gauge", set()),
    "dtesn_load_ratio": ("gauge", {"provider"}),
    "dtesn_load_combined_ratio": ("gauge", set()),
    "dtesn_load_age_seconds": ("gauge", {"provider"}),
    "dtesn_breaker_state": ("gauge", {"state"}),
    "dtesn_baseline_nodes_per_second": ("gauge", set()),
    "dtesn_throughput_improvement_ratio": ("gauge", set()),
    "dtesn_compute_memory_bytes": ("gauge", set()),
    "dtesn_config_info": ("info", {"hash"}),
    "dtesn_batches_total": ("counter", {"closed_by"}),
    "dtesn_breaker_transitions_total": ("counter", {"to"}),
    "dtesn_direct_requests_total": ("counter", {"reason"}),
    "dtesn_deadline_misses_total": ("counter", set()),
    "dtesn_cancellations_total": ("counter", set()),
    "dtesn_nodes_total": ("counter", set()),
    "dtesn_config_reload_errors_total": ("counter", set()),
    # What the contract names in words.
    "dtesn_batch_gap_seconds": ("histogram", set()),
    "dtesn_loop_lag_seconds": ("histogram", set()),
    "dtesn_slice_seconds": ("histogram", set()),
    "dtesn_worker_busy_seconds_total": ("counter", {"worker"}),
    "dtesn_wait_error_seconds": ("histogram", {"prediction"}),
    "dtesn_oldest_queued_seconds": ("gauge", set()),
    "dtesn_refusals_total": ("counter", {"reason"}),
    "dtesn_nodes_for_nobody_total": ("counter", set()),
    "dtesn_bisection_runs_total": ("counter", set()),
    "dtesn_worker_restarts_total": ("counter", {"reason"}),
    "dtesn_batch_items_total": ("counter", set()),
    "dtesn_batch_places_total": ("counter", set()),
}


@pytest.mark.parametrize("name", list(CONTRACT))
def test_a_metric_of_the_contract_has_its_name_type_and_labels(name: str) -> None:
    metric = METRICS[name]
    assert (metric.kind, set(metric.labels)) == CONTRACT[name]


def test_the_catalogue_has_exactly_the_names_of_the_contract() -> None:
    metrics = {value for name, value in vars(names).items() if name.startswith("METRIC_")}
    assert set(METRICS) == {name for name in metrics if not name.startswith("dtesn_operator_")}


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_name_says_type_and_base_unit(metric: Metric) -> None:
    assert metric.name.endswith("_total") is (metric.kind == "counter")
    assert bool(metric.buckets) is (metric.kind == "histogram")
    stem = metric.name.removesuffix("_total")
    for unit in ("seconds", "bytes", "ratio"):
        if unit == metric.unit:
            assert stem.endswith(f"_{unit}")
    assert metric.meaning
    assert metric.use


def test_latency_has_four_buckets_per_decade_from_one_millisecond_to_a_minute() -> None:
    assert LATENCY_BUCKETS[0] == 0.001
    assert LATENCY_BUCKETS[-1] == 60.0
    assert [sum(10**i <= 1000 * bound < 10 ** (i + 1) for bound in LATENCY_BUCKETS) for i in range(4)] == [4, 4, 4, 4]
    assert all(metric.buckets == LATENCY_BUCKETS for metric in METRICS.values() if metric.kind == "histogram" and metric.unit == "seconds")


def test_the_page_has_every_metric_with_its_type_and_unit() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        assert f"| `{metric.name}` | {'gauge, always 1' if metric.kind == 'info' else metric.kind} | {metric.unit} |" in page
