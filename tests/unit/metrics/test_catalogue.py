"""The catalogue of metrics agrees with the contract's names and with the habits of Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtesn_api import names
from dtesn_sidecar.metrics.catalogue import LATENCY_BUCKETS, METRICS, Metric

ROOT = Path(__file__).resolve().parents[3]


def test_the_catalogue_has_exactly_the_names_of_the_contract() -> None:
    assert set(METRICS) == {value for name, value in vars(names).items() if name.startswith("METRIC_")}


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
