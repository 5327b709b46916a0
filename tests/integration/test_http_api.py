"""Every endpoint of a real server with real workers: its answer, its headers, its log."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.http_server import LONG, Server, running

from dtesn_api import names, wire
from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar import DTESNProcessor
from dtesn_sidecar.metrics.catalogue import METRICS

PROCESS = "/dtesn/process_with_batching"
TIMES = r'queue;dur=[\d.]+, compute;dur=[\d.]+, batch;desc="\d+", closed;desc="\w+", total;dur=[\d.]+'
TEXTS = ["a", "hello", "a longer text that has more nodes " * 3, "ümlaut 漢字", *(f"text number {i} " * (i % 5 + 1) for i in range(20))]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
async def http(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def test_process_with_batching_answers_as_the_contract_shows(http: aiohttp.ClientSession) -> None:
    async with http.post(PROCESS, json={"input_data": "hello"}) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        body = msgspec.json.decode(await answer.read(), type=wire.ProcessResponse)
    output = body.result.processed_output
    assert (output.output, output.nodes, output.height) == ("summary", 5, 4)
    assert output.model == wire.ModelInfo(name="dtesn", seed=42, membrane_depth=2, esn_size=64)
    assert len(output.summary) == 2
    assert body.result.processing_time_ms > 0
    assert body.result.engine_integration.dynamic_batching
    assert body.result.engine_integration.batch_manager_active
    assert body.performance_metrics.batching_enabled
    assert body.performance_metrics.current_batch_size >= 1


async def test_concurrent_requests_each_get_the_answer_that_the_library_computes_alone(http: aiohttp.ClientSession) -> None:
    async def one(text: str, depth: int) -> np.ndarray:
        body = {"input_data": text, "output": "features", "membrane_depth": depth}
        async with http.post(PROCESS, json=body) as answer:
            assert answer.status == 200
            output = (await answer.json())["result"]["processed_output"]
            return np.array(output["features"], dtype=np.float32).reshape(output["shape"])

    cases = [(text, depth) for text in TEXTS for depth in (1, 2, 3)]
    answers = await asyncio.gather(*(one(*case) for case in cases))
    async with DTESNProcessor(ModelConfiguration(esn_size=64, membrane_depth=2), enable_dynamic_batching=False) as processor:
        for (text, depth), answer in zip(cases, answers, strict=True):
            alone = await processor.process_with_dynamic_batching(text, membrane_depth=depth, output="features")
            expected = np.asarray(alone.processed_output.features).reshape(depth, 2, 64)
            np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-6)


async def test_requests_that_come_together_are_computed_together(http: aiohttp.ClientSession) -> None:
    async def one(path: str) -> tuple[str, dict[str, bool]]:
        async with http.post(path, json={"input_data": "x" * 2000, "timeout": LONG}) as answer:
            return answer.headers["Server-Timing"], (await answer.json())["result"]["engine_integration"]

    together = await asyncio.gather(*(one(PROCESS) for _ in range(64)))
    assert any(marks["batch_processed"] for _, marks in together)
    for timing, marks in together:
        match = re.search(r'batch;desc="(\d+)"', timing)
        assert match is not None
        assert (int(match[1]) > 1) == marks["batch_processed"]
    direct = await asyncio.gather(*(one("/dtesn/process") for _ in range(16)))
    assert not any(marks["batch_processed"] or marks["dynamic_batching"] for _, marks in direct)


async def test_every_input_format_is_read(http: aiohttp.ClientSession) -> None:
    inputs: list[tuple[object, str, int]] = [
        ("text", "auto", 4),
        ([0.5, 0.25], "auto", 2),
        ([[0.5, 1.0], [0.25, 2.0], [0, 0]], "series", 3),
        ({"label": "a", "children": [{"label": "b"}, {"label": "c"}]}, "auto", 3),
        ({"labels": ["r", "x", "y"], "parents": [-1, 0, 0]}, "tree", 3),
        ({"anything": [1, {"b": None}]}, "json", 0),
        ("<a><b>text</b></a>", "xml", 0),
    ]
    for data, form, nodes in inputs:
        async with http.post(PROCESS, json={"input_data": data, "input_format": form}) as answer:
            assert answer.status == 200, await answer.text()
            found = (await answer.json())["result"]["processed_output"]["nodes"]
            assert found == nodes or (nodes == 0 and found > 1)


async def test_batch_process_answers_in_order_each_with_its_own_status(http: aiohttp.ClientSession) -> None:
    inputs = ["one", [], "three", {"label": float(3)}, 17, "six"] * 30
    async with http.post("/dtesn/batch_process", json={"inputs": inputs}) as answer:
        assert answer.status == 200
        body = msgspec.json.decode(await answer.read(), type=wire.BatchProcessResponse)
    assert body.status == "partial"
    assert [item.index for item in body.results] == list(range(len(inputs)))
    for data, item in zip(inputs, body.results, strict=True):
        if data in ([], 17):
            assert item.error.status == 422
            assert item.error.field == f"inputs[{item.index}]"
        else:
            assert item.result.processed_output.nodes == (len(data) if isinstance(data, str) else 1)


async def test_batch_process_streams_ndjson_in_order_where_accepted(http: aiohttp.ClientSession) -> None:
    inputs = [*TEXTS, []] * 4
    async with http.post("/dtesn/batch_process", json={"inputs": inputs}, headers={"Accept": "application/x-ndjson"}) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/x-ndjson"
        assert answer.headers["X-Request-ID"]
        assert re.fullmatch(TIMES, answer.headers["Server-Timing"])  # of the first answer
        items = [msgspec.json.decode(line, type=wire.BatchItem) async for line in answer.content]
    assert [item.index for item in items] == list(range(len(inputs)))
    assert [item.status == "error" for item in items] == [data == [] for data in inputs]


async def test_a_bulk_call_that_is_wrong_as_a_whole_is_a_problem_though_a_stream_was_asked_for(http: aiohttp.ClientSession) -> None:
    for wrong, status in (({"inputs": []}, 422), ({"inputs": ["a"], "model": "other"}, 404)):
        async with http.post("/dtesn/batch_process", json=wrong, headers={"Accept": "application/x-ndjson"}) as answer:
            assert answer.status == status
            assert answer.content_type == "application/problem+json"


async def test_a_large_body_and_a_large_answer_go_through_the_helper_and_agree(http: aiohttp.ClientSession) -> None:
    request = {"inputs": ["y" * 64] * 1200, "output": "features", "membrane_depth": 4, "timeout": LONG}  # over 64 KiB, and 600,000 floats
    async with http.post("/dtesn/batch_process", json=request) as answer:
        assert answer.status == 200
        results = (await answer.json())["results"]
    assert len(results) == 1200
    alone = await features_alone(http, "y" * 64)
    for item in results:
        np.testing.assert_allclose(item["result"]["processed_output"]["features"], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("part", ["root", "mean"])
async def test_a_long_chain_is_answered_in_a_batch_as_alone(http: aiohttp.ClientSession, part: str) -> None:
    request = {"inputs": ["y" * 1000] * 32, "output": "features", "membrane_depth": 4, "timeout": LONG}
    async with http.post("/dtesn/batch_process", json=request) as answer:
        results = [item["result"] for item in (await answer.json())["results"]]
    if not any(result["engine_integration"]["batch_processed"] for result in results):
        pytest.fail("nothing was batched, so nothing was compared")
    index = ("root", "mean").index(part)
    alone = np.reshape(await features_alone(http, "y" * 1000), (4, 2, 64))[:, index]
    for result in results:
        batched = np.reshape(result["processed_output"]["features"], (4, 2, 64))[:, index]
        np.testing.assert_allclose(batched, alone, rtol=0, atol=2e-6)


async def features_alone(http: aiohttp.ClientSession, text: str) -> list[float]:
    async with http.post("/dtesn/process", json={"input_data": text, "output": "features", "membrane_depth": 4, "timeout": LONG}) as answer:
        assert answer.status == 200
        return (await answer.json())["result"]["processed_output"]["features"]


async def test_batch_metrics_has_every_figure_of_the_contract(http: aiohttp.ClientSession) -> None:
    async with http.post(PROCESS, json={"input_data": "hello"}) as answer:
        assert answer.status == 200
    async with http.get("/dtesn/batch_metrics") as answer:
        assert answer.status == 200
        raw = await answer.read()
    body = msgspec.json.decode(raw, type=wire.BatchMetricsResponse)
    assert set(json.loads(raw)["metrics"]) == {
        "requests_processed",
        "avg_batch_size",
        "throughput_improvement",
        "avg_server_load",
        "batch_utilization",
        "success_rate",
        "requests_per_second",
        "avg_processing_time_ms",
        "avg_batch_wait_time",
        "failure_rate",
        "circuit_breaker_open",
    }
    assert body.metrics.requests_processed >= 1
    assert set(body.server_load) == {"active_requests", "queue", "system"}


async def test_config_says_what_is_in_force_without_what_may_be_secret(http: aiohttp.ClientSession) -> None:
    async with http.get("/config") as answer:
        assert answer.status == 200
        body = msgspec.json.decode(await answer.read(), type=wire.ConfigResponse)
    assert body.config_hash is None
    assert body.backend == "numpy"
    assert body.workers >= 1
    assert body.spec["model"]["esnSize"] == 64
    assert "env" not in body.spec["sidecar"]
    assert body.reload_errors == []
    assert body.needs_restart == []


async def test_the_probes_are_green(http: aiohttp.ClientSession) -> None:
    for path in ("/healthz", "/readyz"):
        async with http.get(path) as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok", "reasons": []})


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_the_exposition_has_exactly_the_metrics_of_the_contract(http: aiohttp.ClientSession, accept: str) -> None:
    async with http.post(PROCESS, json={"input_data": "hello"}) as answer:
        assert answer.status == 200
    async with http.get("/metrics", headers={"Accept": accept}) as answer:
        assert answer.status == 200
        assert answer.content_type == accept.partition(";")[0]
        text = await answer.text()
    if "openmetrics" in accept:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

        families = list(openmetrics(text))
    else:
        families = list(text_string_to_metric_families(text))
    found = {family.name for family in families if family.name.startswith("dtesn_")}
    contract = set(METRICS)
    suffixes = ("_total", "_info") if "openmetrics" in accept else ("_total",)
    known = {next((value.removesuffix(suffix) for suffix in suffixes if value.endswith(suffix)), value) for value in contract}
    # what is not measured is absent: a fresh server has no baseline, and its own load may have no reading yet
    may_be_absent = {
        names.METRIC_BASELINE,
        names.METRIC_BASELINE_AGE,
        names.METRIC_DEVICE_EFFICIENCY,
        names.METRIC_IMPROVEMENT,
        names.METRIC_LOAD_COMBINED,
    }
    assert found - known == set()
    assert known - found <= may_be_absent
    assert not [family.name for family in families if family.name.endswith("_created")]


async def test_latency_buckets_run_from_one_millisecond_to_a_minute_four_per_decade(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as answer:
        text = await answer.text()
    (family,) = [family for family in text_string_to_metric_families(text) if family.name == names.METRIC_REQUEST_SECONDS]
    bounds = [float(sample.labels["le"]) for sample in family.samples if sample.name.endswith("_bucket")][:-1]
    assert (bounds[0], bounds[-1]) == (0.001, 60.0)
    for decade in (0.001, 0.01, 0.1, 1.0):
        assert sum(decade <= bound < 10 * decade * 0.999 for bound in bounds) == 4


async def test_every_response_has_its_id_and_its_times(http: aiohttp.ClientSession) -> None:
    requests = [("GET", "/healthz"), ("GET", "/nothing"), ("POST", "/healthz"), ("GET", "/metrics"), ("POST", PROCESS)]
    for method, path in requests:
        async with http.request(method, path) as answer:
            assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", answer.headers["X-Request-ID"])
            assert "total;dur=" in answer.headers["Server-Timing"]
    async with http.post(PROCESS, json={"input_data": "hello"}) as answer:
        timing = answer.headers["Server-Timing"]
        assert re.fullmatch(TIMES, timing)


async def test_a_504_says_where_its_time_went() -> None:
    with running() as server:
        async with aiohttp.ClientSession(server.url) as http, http.post(PROCESS, json={"input_data": "a", "timeout": 1e-6}) as answer:
            assert answer.status == 504
            timing = answer.headers["Server-Timing"]
        assert re.fullmatch(TIMES, timing) or re.fullmatch(r"queue;dur=[\d.]+, total;dur=[\d.]+", timing)  # expired in compute or before
        server.terminate()
        assert server.end() == 0
        (record,) = server.records()
    assert "queue_ms" in record
    assert ("batch" in record) == ("batch" in timing)


async def test_a_request_id_is_echoed_where_it_is_sane_and_replaced_where_not(http: aiohttp.ClientSession) -> None:
    async with http.get("/healthz", headers={"X-Request-ID": "my-id_1.2:3/4"}) as answer:
        assert answer.headers["X-Request-ID"] == "my-id_1.2:3/4"
    for bad in ("x" * 129, "with space", '"><script>', "ü"):
        async with http.get("/healthz", headers={"X-Request-ID": bad}) as answer:
            assert answer.headers["X-Request-ID"] != bad


async def test_a_valid_traceparent_is_continued_and_an_invalid_one_ignored(http: aiohttp.ClientSession) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with http.get("/healthz", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}) as answer:
        assert re.fullmatch(rf"00-{trace}-[0-9a-f]{{16}}-01", answer.headers["traceresponse"])
    for bad in ("nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", f"ff-{trace}-b7ad6b7169203331-01", f"00-{trace}-b7ad6b7169203331-01-x"):
        async with http.get("/healthz", headers={"traceparent": bad}) as answer:
            assert "traceresponse" not in answer.headers


async def test_the_openapi_document_is_valid_and_names_every_endpoint(http: aiohttp.ClientSession) -> None:
    import jsonschema_rs

    async with http.get("/openapi.json") as answer:
        document = await answer.json()
    for path, methods in document["paths"].items():
        for method in methods:
            async with http.request(method.upper(), path.format(model="dtesn", version="1", name="page.css")) as answer:
                assert answer.status not in (404, 405)
                assert str(answer.status) in methods[method]["responses"]
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.validator_for({**schema, "components": document["components"]})
        assert schema.get("description"), name
    for _, reference in re.findall(r'"\$ref": "(#/components/schemas/(\w+))"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


async def test_the_log_has_a_line_for_each_request_and_nothing_of_what_it_held() -> None:
    secret = "s3cr3t-content"
    with running() as server:
        async with aiohttp.ClientSession(server.url) as http:
            for body in (
                f'{{"input_data": "{secret}"}}',
                f'{{"input_data": "{secret}", "{secret}": 1}}',
                f"{secret}",
                f'{{"model": "{secret}"}}',
            ):
                async with http.post(PROCESS, data=body, headers={"Content-Type": "application/json", "X-Request-ID": "the-id"}) as answer:
                    assert answer.status in (200, 400, 422)
            async with http.get(f"/{secret}?{secret}=1", headers={"X-Evil": secret, "User-Agent": secret}) as answer:
                assert answer.status == 404
        server.terminate()
        assert server.end() == 0
        assert secret not in server.log()
        records = server.records()
        assert [record["status"] for record in records] == [200, 422, 400, 422, 404]
        assert [record["route"] for record in records] == [*[PROCESS] * 4, "other"]
        assert records[0]["request_id"] == "the-id"
        assert records[0]["batch"] == 1
        assert records[1]["code"] == "invalid_input"
