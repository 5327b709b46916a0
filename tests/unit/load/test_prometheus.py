"""What samples of Prometheus mean as a load: pure, no server."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtesn_api.spec import PrometheusSource
from dtesn_sidecar.load import NoData, Reading
from dtesn_sidecar.load.http import QUOTED, Reply, quoted
from dtesn_sidecar.load.prometheus import Sample, is_selector, reading, samples, scaled, with_own_times

WALL, NOW = 1_800_000_000.0, 5000.0
VALUES = st.floats(-1e15, 1e15)


def source(**fields: Any) -> PrometheusSource:
    return PrometheusSource(name="mine", url="http://prometheus:9090", query="load", **fields)


def sample(value: float, age: float = 0.0, **labels: str) -> Sample:
    return Sample(frozenset(labels.items()), value, WALL - age)


def load_of(*found: Sample, **fields: Any) -> Reading | NoData:
    return reading(found, source(**fields), now=NOW, wall=WALL)


@given(VALUES, VALUES, VALUES, VALUES)
def test_scaling_is_monotone_within_bounds_and_meets_its_ends(one: float, other: float, low: float, high: float) -> None:
    if low < high:
        less, more = sorted((one, other))
        assert 0 <= scaled(less, low, high) <= scaled(more, low, high) <= 1
        assert scaled(low, low, high) == 0
        assert scaled(high, low, high) == 1


@given(st.lists(st.tuples(st.floats(), st.floats(0, 60)), min_size=1))
def test_of_several_series_the_highest_fresh_number_counts(parts: list[tuple[float, float]]) -> None:
    found = load_of(*(sample(value, age, series=str(i)) for i, (value, age) in enumerate(parts)), stale_after_seconds=30)
    numbers = [(value, age) for value, age in parts if math.isfinite(value)]
    fresh = [value for value, age in numbers if age <= 30]
    if not numbers:
        assert isinstance(found, NoData)
    elif fresh:
        assert isinstance(found, Reading)
        assert found.value == min(1.0, max(0.0, max(fresh)))
        assert NOW - found.at <= 30
    else:
        assert NOW - found.at == pytest.approx(min(age for _, age in numbers))


def test_a_sample_slightly_ahead_is_of_now_and_one_far_ahead_is_no_data() -> None:
    assert load_of(sample(0.5, age=-2)) == Reading(0.5, NOW)
    assert load_of(sample(0.5, age=-31)) == NoData("the sample is 31 s in the future: the clocks differ")
    assert load_of(sample(0.9, age=-31), sample(0.5)) == Reading(0.5, NOW)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_no_data(value: float) -> None:
    assert load_of(sample(value)) == NoData(f"the query yields {value} and no number")
    assert load_of(sample(value), sample(0.3)) == Reading(0.3, NOW)


def test_each_series_gets_its_own_time() -> None:
    found = [sample(0.9, 0, a="1"), sample(0.4, 0, a="2"), sample(0.1, 0)]
    stamps = [sample(WALL - 100, 0, a="1"), sample(WALL - 7, 0, a="2")]
    assert with_own_times(found, stamps) == [sample(0.9, 100, a="1"), sample(0.4, 7, a="2"), sample(0.1, 0)]


@pytest.mark.parametrize(
    "query",
    ["up", " up ", "job:load:avg5m", "up{}", 'up{job="a"}', 'up { job = "a}" , b!~"\\"x" }', "up{a='{',b=`}`}", '{__name__="up"}', "NaN"],
)
def test_a_name_with_or_without_labels_is_a_selector(query: str) -> None:
    assert is_selector(query)


@pytest.mark.parametrize(
    "query",
    [
        "sum(up)",
        "up offset 5m",
        "up @ 0",
        "up[5m]",
        "up + up",
        "1",
        "up or down",
        'up{job="a"} > 0',
        '"text"',
        "-up",
        "up # why",
        'up{a="}',
    ],
)
def test_an_expression_is_no_selector(query: str) -> None:
    assert not is_selector(query)


@given(st.text(max_size=4096))
@example("a{" + "'\\" * 2000)
@example("{" + '"' * 4000)
def test_any_text_is_judged(query: str) -> None:
    is_selector(query)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["success", "vector", "scalar", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["status", "data", "resultType", "result", "metric", "value", "error"]) | st.text(max_size=3), inner
        )
    ),
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from([200, 204, 400, 503]))
def test_whatever_a_server_sends_is_samples_or_no_data(body: bytes, status: int) -> None:
    found = samples(Reply(status, "application/json", body))
    assert isinstance(found, NoData | list)
    if isinstance(found, NoData):
        assert found.reason


@given(JSON, st.sampled_from(["vector", "scalar", "string"]))
def test_whatever_result_an_answer_has_is_a_reading_or_no_data(result: object, kind: str) -> None:
    body = json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
    found = samples(Reply(200, "application/json", body))
    if isinstance(found, list):
        assert isinstance(load_of(*found), Reading | NoData)


def test_warnings_beside_an_answer_do_no_harm() -> None:
    body = b'{"status":"success","warnings":["partial"],"data":{"resultType":"scalar","result":[1.5,"0.25"],"stats":{}}}'
    assert samples(Reply(200, "application/json", body)) == [Sample(frozenset(), 0.25, 1.5)]


def test_the_name_of_a_metric_is_no_label_since_functions_drop_it() -> None:
    body = b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","a":"b"},"value":[1,"2"]}]}}'
    assert samples(Reply(200, "application/json", body)) == [Sample(frozenset({("a", "b")}), 2.0, 1.0)]


@given(st.text(max_size=500))
def test_a_quoted_text_is_short_and_printable(text: str) -> None:
    shown = quoted(text)
    assert len(shown) <= QUOTED + 3
    assert shown.isprintable()


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=5, max_size=40), st.integers(0, 400))
def test_a_secret_is_not_quoted_wherever_it_stands(secret: str, before: int) -> None:
    assert secret not in quoted("-" * before + secret + "-", (secret,))
