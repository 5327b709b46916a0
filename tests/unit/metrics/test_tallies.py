"""Our counters and histograms say what `prometheus_client`'s own would, and their labels stay bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.registry import Collector

from dtesn_api import names
from dtesn_sidecar.metrics.catalogue import METRICS
from dtesn_sidecar.metrics.metric import CLOSED_BY
from dtesn_sidecar.metrics.tallies import Counts, Distribution, help_of


class _One(Collector):
    def __init__(self, tally: Counts | Distribution) -> None:
        self._tally = tally

    def collect(self):
        yield self._tally.family()


def written(tally: Counts | Distribution) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_One(tally))
    return registry


def lines(body: bytes) -> set[str]:
    return {line for line in body.decode().splitlines() if "_created" not in line}


HISTOGRAMS = [name for name, metric in METRICS.items() if metric.kind == "histogram" and not metric.labels]


@given(st.sampled_from(HISTOGRAMS), st.lists(st.floats(0, 100) | st.sampled_from([0.001, 0.0018, 1.0, 32.0, 60.0, 4096.0]), max_size=30))
def test_a_histogram_reads_as_that_of_prometheus_client(name: str, values: list[float]) -> None:
    metric, registry = METRICS[name], CollectorRegistry()
    theirs = Histogram(name, help_of(metric), buckets=metric.buckets, registry=registry)
    ours = Distribution(name)
    for value in values:
        theirs.observe(value)
        ours.observe(value)
    assert lines(generate_latest(written(ours))) == lines(generate_latest(registry))
    assert lines(openmetrics(written(ours))) == lines(openmetrics(registry))


@given(st.lists(st.tuples(st.sampled_from(CLOSED_BY), st.integers(0, 5)), max_size=30))
def test_a_counter_reads_as_that_of_prometheus_client_with_every_listed_value_from_the_start(events: list[tuple[str, int]]) -> None:
    registry = CollectorRegistry()
    theirs = Counter(names.METRIC_BATCHES, help_of(METRICS[names.METRIC_BATCHES]), ("closed_by",), registry=registry)
    ours = Counts(names.METRIC_BATCHES)
    for value in CLOSED_BY:
        theirs.labels(value)
    for value, amount in events:
        theirs.labels(value).inc(amount)
        ours.add(amount, value)
    assert lines(generate_latest(written(ours))) == lines(generate_latest(registry))


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=60))
def test_labels_stay_bounded_whatever_is_counted_and_nothing_is_lost(events: list[tuple[str, str]]) -> None:
    counts = Counts(names.METRIC_HTTP_RESPONSES, most=5)
    for route, status in events:
        counts.add(1.0, route, status)
    samples = counts.family().samples
    assert sum(sample.value for sample in samples) == len(events)
    assert len({sample.labels["route"] for sample in samples}) <= 6
    assert len({sample.labels["status"] for sample in samples}) <= 6


def test_an_exemplar_stands_at_its_bucket_in_openmetrics_alone() -> None:
    tally = Distribution(names.METRIC_REQUEST_SECONDS)
    tally.observe(0.02, "0af7651916cd43dd8448eb211c80319c")
    tally.observe(0.5)
    (line,) = [line for line in openmetrics(written(tally)).decode().splitlines() if "trace_id" in line]
    assert line.startswith('dtesn_request_seconds_bucket{le="0.032"} 1.0 # {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.02 ')
    assert b"trace_id" not in generate_latest(written(tally))
