"""What is counted of each event, and that a gauge without a measurement is absent."""

from __future__ import annotations

import dataclasses
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dtesn_sidecar.batching.protocols import BatchDone, BatchObserver, Bisected, BreakerChanged, Refused, RequestDone, Work
from dtesn_sidecar.load import NoData, Reading
from dtesn_sidecar.load.readings import SourceState
from dtesn_sidecar.metrics import Gauges, Metrics
from dtesn_sidecar.metrics.observer import prefers_openmetrics

SNAPSHOT = SimpleNamespace(
    limit=8,
    target=6,
    pending=3,
    oldest_seconds=0.5,
    baseline_nodes_per_second=None,
    baseline_samples=3,
    baseline_age_seconds=2.5,
    batch_fill=0.25,
    device_efficiency=None,
    throughput_improvement=None,
    breaker="half_open",
    workers=2,
)
BATCH = BatchDone(
    worker=1,
    items=6,
    places=8,
    limit=8,
    max_batch_size=32,
    closed_by="window",
    seconds=0.2,
    predicted_seconds=0.1,
    nodes=100,
    nodes_dropped=7,
    slices=4,
    succeeded=6,
    complete=True,
    direct=False,
    gap_seconds=0.0,
    predicted_minus_actual_wait=-0.05,
    efficiency=None,
)


class World:
    """What the gauges read."""

    snapshot: Any = None
    load: tuple[float | None, list[SourceState]] = (None, [])
    config_hash: str | None = None
    memory: int | None = None


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def metrics(world: World) -> Metrics:
    return Metrics("m", Gauges(lambda: world.snapshot, lambda: world.load, lambda: world.config_hash, lambda: world.memory))


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels as they are written."""
    body, _ = metrics.exposition("")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_every_event_of_the_observer_is_implemented_with_the_same_arguments() -> None:
    for name, method in inspect.getmembers(BatchObserver, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(Metrics, name)).parameters) == list(inspect.signature(method).parameters)


def test_a_computed_request_is_counted_by_outcome_with_its_times(metrics: Metrics) -> None:
    metrics.request_done(RequestDone(Work(), 2, "ok", 0.25, 0.5, 1.0, 3, False))
    found = samples(metrics)
    assert found["dtesn_requests_total{model=m,outcome=ok,priority=2}"] == 1
    assert (found["dtesn_queue_seconds_sum"], found["dtesn_compute_seconds_sum"], found["dtesn_request_seconds_sum"]) == (0.25, 0.5, 1.0)


def test_a_request_that_was_never_computed_has_no_queue_or_compute_time(metrics: Metrics) -> None:
    metrics.request_done(RequestDone(Work(), 1, "expired", 1.0, 0.0, 1.0, 0, False))
    found = samples(metrics)
    assert found["dtesn_queue_seconds_count"] == found["dtesn_compute_seconds_count"] == 0
    assert found["dtesn_request_seconds_count"] == 1


def test_a_batch_is_counted_with_its_items_and_places(metrics: Metrics) -> None:
    metrics.batch_done(BATCH)
    found = samples(metrics)
    assert found["dtesn_batches_total{closed_by=window}"] == 1
    assert (found["dtesn_batch_items_total"], found["dtesn_batch_places_total"]) == (6, 8)
    assert found["dtesn_batch_utilization_ratio_sum"] == 0.75
    assert (found["dtesn_nodes_total"], found["dtesn_nodes_for_nobody_total"]) == (100, 7)
    assert found["dtesn_worker_busy_seconds_total{worker=1}"] == pytest.approx(0.2)
    assert found["dtesn_slice_seconds_sum"] == pytest.approx(0.05)
    assert found["dtesn_wait_error_seconds_sum{prediction=under}"] == pytest.approx(0.05)


def test_a_direct_run_has_no_places(metrics: Metrics) -> None:
    metrics.batch_done(dataclasses.replace(BATCH, places=0, slices=0, predicted_minus_actual_wait=None))
    found = samples(metrics)
    assert found["dtesn_batch_items_total"] == found["dtesn_batch_places_total"] == found["dtesn_slice_seconds_count"] == 0


def test_the_other_events_are_counted_by_their_reason(metrics: Metrics) -> None:
    metrics.refused(Refused("deadline", 1, 429, 2.0))
    metrics.breaker_changed(BreakerChanged("batch", "open"))
    metrics.breaker_changed(BreakerChanged("direct", "open"))
    metrics.direct("breaker")
    metrics.cancelled(computing=True)
    metrics.deadline_missed("queued")
    metrics.bisected(Bisected("error", 8, 5, 0))
    metrics.worker_restarted("hung")
    metrics.policy_failed("load")
    metrics.answered("/healthz", 200)
    metrics.disconnected()
    metrics.reload_failed()
    expected = {
        "dtesn_refusals_total{reason=deadline}": 1,
        "dtesn_requests_total{model=m,outcome=refused,priority=1}": 1,
        "dtesn_breaker_transitions_total{to=open}": 1,
        "dtesn_direct_requests_total{reason=breaker}": 1,
        "dtesn_cancellations_total": 1,
        "dtesn_deadline_misses_total": 1,
        "dtesn_bisection_runs_total": 5,
        "dtesn_worker_restarts_total{reason=hung}": 1,
        "dtesn_policy_failures_total{policy=load}": 1,
        "dtesn_http_responses_total{route=/healthz,status=200}": 1,
        "dtesn_http_disconnects_total": 1,
        "dtesn_config_reload_errors_total": 1,
    }
    found = samples(metrics)
    assert {name: found.get(name) for name in expected} == expected


def test_what_is_not_measured_is_absent(metrics: Metrics, world: World) -> None:
    assert not any(name.startswith(("dtesn_load", "dtesn_pending", "dtesn_compute_memory")) for name in samples(metrics))
    world.snapshot = SNAPSHOT
    world.load = (None, [SourceState("gpu", 1.0, False, NoData("no driver"), None)])
    found = samples(metrics)
    assert found["dtesn_pending_requests"] == 3
    assert (found["dtesn_batch_size_current"], found["dtesn_batch_size_target"]) == (8, 6)
    assert [name for name in found if name.startswith(("dtesn_load", "dtesn_baseline_nodes", "dtesn_throughput"))] == [
        "dtesn_load_up{provider=gpu}"
    ]
    assert found["dtesn_load_up{provider=gpu}"] == 0


def test_what_is_measured_is_there(metrics: Metrics, world: World) -> None:
    world.snapshot = SimpleNamespace(**{**vars(SNAPSHOT), "baseline_nodes_per_second": 1e5, "throughput_improvement": 42.0})
    world.load = (0.5, [SourceState("queue", 1.0, False, Reading(0.5, 0.0), 0.25)])
    world.config_hash, world.memory = "abc", 1024
    found = samples(metrics)
    assert found["dtesn_load_combined_ratio"] == found["dtesn_load_ratio{provider=queue}"] == 0.5
    assert found["dtesn_load_age_seconds{provider=queue}"] == 0.25
    assert found["dtesn_load_up{provider=queue}"] == 1
    assert found["dtesn_throughput_improvement_ratio"] == pytest.approx(0.42)
    assert found["dtesn_baseline_nodes_per_second"] == 1e5
    assert found["dtesn_config_info{hash=abc}"] == 1
    assert found["dtesn_compute_memory_bytes"] == 1024
    states = {state: found[f"dtesn_breaker_state{{state={state}}}"] for state in ("closed", "open", "half_open")}
    assert states == {"closed": 0, "open": 0, "half_open": 1}


def test_what_stands_beside_utilisation_is_published_and_absent_where_not_measured(metrics: Metrics, world: World) -> None:
    world.snapshot = SNAPSHOT
    found = samples(metrics)
    assert found["dtesn_baseline_samples"] == 3
    assert found["dtesn_baseline_age_seconds"] == 2.5
    assert found["dtesn_batch_fill_ratio"] == 0.25
    assert "dtesn_device_efficiency_ratio" not in found


def test_every_worker_is_there_before_it_has_computed(metrics: Metrics, world: World) -> None:
    metrics.batch_done(BATCH)
    world.snapshot = SNAPSHOT
    found = samples(metrics)
    assert {name: value for name, value in found.items() if name.startswith("dtesn_worker_busy")} == {
        "dtesn_worker_busy_seconds_total{worker=0}": 0.0,
        "dtesn_worker_busy_seconds_total{worker=1}": pytest.approx(0.2),
    }


def test_a_reason_that_nobody_foresaw_is_counted_as_other(metrics: Metrics) -> None:
    for reason in ("mine", "mine too"):
        metrics.batch_done(dataclasses.replace(BATCH, closed_by=reason))
    found = samples(metrics)
    assert found["dtesn_batches_total{closed_by=other}"] == 2
    assert not any("mine" in name for name in found)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.6", False),
        ("application/openmetrics-text;q=0", False),
        ("Application/OpenMetrics-Text; version=1.0.0; Q=0.4", True),
        ("application/openmetrics-text; version=nonsense; q=nonsense", True),
    ],
)
def test_the_format_is_the_one_that_is_preferred_and_nothing_in_the_header_is_an_error(
    metrics: Metrics, accept: str, expected: bool
) -> None:
    assert prefers_openmetrics(accept) is expected
    body, content_type = metrics.exposition(accept)
    assert content_type.startswith("application/openmetrics-text" if expected else "text/plain")
    assert body.endswith(b"# EOF\n") is expected


def test_a_worker_that_died_without_a_batch_is_counted_too_and_none_twice() -> None:
    replaced = 0
    metrics = Metrics("m", Gauges(lambda: None, lambda: (None, []), lambda: None, lambda: None, lambda: replaced))
    counted = {reason: f"dtesn_worker_restarts_total{{reason={reason}}}" for reason in ("died", "hung")}
    replaced = 1
    assert samples(metrics)[counted["died"]] == 1  # idle
    replaced = 3
    metrics.worker_restarted("died")
    metrics.worker_restarted("hung")
    for _ in range(2):
        found = samples(metrics)
        assert (found[counted["died"]], found[counted["hung"]]) == (2, 1)
