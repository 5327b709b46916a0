"""Traces of a real server, sent by the real exporter to a receiver that speaks OTLP over HTTP and reads the real protobuf."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status
from tests.integration.http_server import Server, running
from tests.integration.oip import running_rpc
from tests.integration.prometheus_server import eventually
from tritonclient.utils import InferenceServerException

PROCESS = "/dtesn/process_with_batching"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
TOGETHER = {  # three requests make a batch, unless they come within more than ten seconds
    "DTESN_BATCHING_STRATEGY": "fixed",
    "DTESN_BATCHING_TARGET_BATCH_SIZE": "3",
    "DTESN_BATCHING_ENABLE_ADAPTIVE_SIZING": "false",
    "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "10000",
}


class Collector:
    """Receives spans. `hung`: it takes what is sent and never answers."""

    def __init__(self, *, hung: bool = False) -> None:
        self.hung = hung
        self.received: list[ResourceSpans] = []
        self.bodies: list[bytes] = []
        self.reached = asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        self.bodies.append(body)
        self.reached.set()
        if self.hung:
            await asyncio.Event().wait()
        assert request.content_type == "application/x-protobuf"
        self.received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")

    def spans(self, name: str | None = None) -> list[Span]:
        found = [span for resource in self.received for scope in resource.scope_spans for span in scope.spans]
        return [span for span in found if name is None or span.name == name]

    def resource(self) -> dict[str, object]:
        return values(self.received[0].resource)


def values(holder: Any) -> dict[str, object]:
    """The attributes of a span, a link or a resource."""
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in holder.attributes}


@asynccontextmanager
async def collecting(*, hung: bool = False) -> AsyncIterator[Collector]:
    collector = Collector(hung=hung)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


@contextmanager
def traced(collector: Collector, environ: Mapping[str, str] | None = None, *, clean: bool = True) -> Iterator[Server]:
    with running({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **(environ or {})}, clean=clean) as server:
        yield server


async def ended(server: Server) -> int:
    """End the server, which sends its last spans; the collector runs on this loop and must not be blocked meanwhile."""
    server.terminate(signal.SIGINT)
    return await asyncio.to_thread(server.end, 100)


async def post(
    http: aiohttp.ClientSession, path: str = PROCESS, headers: Mapping[str, str] | None = None, **body: object
) -> Mapping[str, str]:
    """The headers of the answer, and its status. A timeout of None is left out."""
    given = {name: value for name, value in {"timeout": 100, **body}.items() if value is not None}
    async with http.post(path, json=given, headers=headers) as answer:
        await answer.read()
        return {**answer.headers, "status": str(answer.status)}


def ids(span: Span) -> tuple[bytes, bytes]:
    return span.trace_id, span.span_id


def links(span: Span) -> list[tuple[bytes, bytes]]:
    return [(link.trace_id, link.span_id) for link in span.links]


async def test_a_request_is_a_trace_that_continues_the_clients_with_its_queueing_and_its_compute() -> None:
    async with collecting() as collector:
        with traced(collector) as server:
            async with aiohttp.ClientSession(server.url) as http:
                headers = await post(http, headers=SAMPLED | {"tracestate": "vendor=1"}, input_data="a secret text", priority=2)
            assert await ended(server) == 0
            (record,) = [it for it in server.records() if it["route"] == PROCESS]
    (request,), (queue,), (compute,), (batch,) = (collector.spans(name) for name in (f"POST {PROCESS}", "queue", "compute", "batch"))
    assert len(collector.spans()) == 4
    assert (request.trace_id.hex(), request.parent_span_id.hex(), request.trace_state) == (TRACE, PARENT, "vendor=1")
    assert request.kind == Span.SPAN_KIND_SERVER
    assert headers["traceresponse"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert values(request) == {
        "http.request.method": "POST",
        "http.route": PROCESS,
        "url.path": PROCESS,
        "url.scheme": "http",
        "http.response.status_code": 200,
        "dtesn.priority": 2,
        "dtesn.batch.size": 1,
        "dtesn.batch.closed_by": values(batch)["dtesn.batch.closed_by"],
    }
    for child in (queue, compute):
        assert (child.trace_id, child.parent_span_id) == ids(request)
    assert request.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano == compute.start_time_unix_nano
    assert compute.start_time_unix_nano < compute.end_time_unix_nano <= request.end_time_unix_nano
    assert batch.start_time_unix_nano == compute.start_time_unix_nano
    assert batch.end_time_unix_nano >= compute.start_time_unix_nano
    timing = dict(part.strip().split(";dur=") for part in headers["Server-Timing"].split(",") if ";dur=" in part)
    queued = (queue.end_time_unix_nano - queue.start_time_unix_nano) / 1e6
    assert queued == pytest.approx(float(timing["queue"]), abs=0.002)  # the same figure, in milliseconds with three digits
    assert values(queue) == {"dtesn.priority": 2, "dtesn.outcome": "ok"}
    assert (batch.parent_span_id, batch.trace_id == request.trace_id) == (b"", False)
    assert links(request) == links(compute) == [ids(batch)]
    assert links(batch) == [ids(request)]
    assert values(batch)["dtesn.batch.size"] == values(batch)["dtesn.batch.succeeded"] == 1
    resource = collector.resource()
    assert resource["service.name"] == "dtesn-sidecar"
    assert resource["service.version"]
    assert not any(b"secret" in body for body in collector.bodies)
    assert record["trace_id"] == TRACE


async def test_requests_of_one_batch_and_their_batch_are_linked_with_each_other() -> None:
    async with collecting() as collector:
        with traced(collector, TOGETHER) as server:
            async with aiohttp.ClientSession(server.url) as http:
                await asyncio.gather(*(post(http, input_data=text) for text in ("one", "two", "three")))
            await ended(server)
    requests = collector.spans(f"POST {PROCESS}")
    (batch,) = collector.spans("batch")
    assert len({span.trace_id for span in requests}) == 3
    assert sorted(links(batch)) == sorted(map(ids, requests))
    assert all(links(span) == [ids(batch)] for span in requests)
    assert {values(span)["dtesn.batch.size"] for span in collector.spans("compute")} == {3}
    found = values(batch)
    assert (found["dtesn.batch.size"], found["dtesn.batch.places"], found["dtesn.batch.closed_by"]) == (3, 3, "full")
    assert not any(span.parent_span_id for span in requests)  # they came without a trace and begin one


async def test_a_batch_is_linked_with_those_of_its_requests_that_are_sampled() -> None:
    async with collecting() as collector:
        with traced(collector, TOGETHER) as server:
            async with aiohttp.ClientSession(server.url) as http:
                unsampled = [{"traceparent": f"00-{digit * 32}-{PARENT}-00"} for digit in "12"]
                given = [*unsampled, SAMPLED]
                answers = await asyncio.gather(*(post(http, headers=headers, input_data="text") for headers in given))
            await ended(server)
    (request,) = collector.spans(f"POST {PROCESS}")
    (batch,) = collector.spans("batch")
    assert len(collector.spans()) == 4
    assert request.trace_id.hex() == TRACE
    assert links(batch) == [ids(request)]
    assert values(batch)["dtesn.batch.size"] == 3
    assert answers[0]["traceresponse"].startswith("00-" + "1" * 32)  # the trace goes on, though nobody records it
    assert answers[0]["traceresponse"].endswith("-00")


async def test_the_inputs_of_a_bulk_call_are_spans_of_its_trace() -> None:
    async with collecting() as collector:
        with traced(collector) as server:
            async with aiohttp.ClientSession(server.url) as http:
                await post(http, "/dtesn/batch_process", SAMPLED, inputs=["one", "two", "three"])
            await ended(server)
    (request,) = collector.spans("POST /dtesn/batch_process")
    computed, batches = collector.spans("compute"), collector.spans("batch")
    assert len(computed) == len(collector.spans("queue")) == 3
    assert {(span.trace_id, span.parent_span_id) for span in computed} == {ids(request)}
    assert set(links(request)) == set(map(ids, batches)) == {link for span in computed for link in links(span)}
    assert len(links(request)) == len(batches)
    assert all(links(batch) == [ids(request)] for batch in batches)


async def test_a_call_of_grpc_and_a_request_of_the_open_inference_protocol_are_traces_too() -> None:
    async with collecting() as collector:
        with running_rpc({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, clean=False) as (server, address):
            tensor = triton.InferInput("TEXT", [2], "BYTES")
            tensor.set_data_from_numpy(np.array([b"a secret", b"text"], dtype=object))
            async with triton.InferenceServerClient(address) as client:
                await client.infer("dtesn", [tensor], headers=SAMPLED)
                await client.get_model_metadata("dtesn")
                with pytest.raises(InferenceServerException):
                    await client.infer("another", [tensor], headers=SAMPLED)
            async with aiohttp.ClientSession(server.url) as http:
                inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["a secret"]}]
                assert (await post(http, "/v2/models/dtesn/infer", SAMPLED, inputs=inputs, timeout=None))["status"] == "200"
            await ended(server)
    answered, unknown = sorted(collector.spans("inference.GRPCInferenceService/ModelInfer"), key=lambda span: span.start_time_unix_nano)
    (rest,) = collector.spans("POST /v2/models/{model}/infer")
    for span in (answered, unknown, rest):
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
        assert span.status.code == Status.STATUS_CODE_UNSET
    assert values(answered) | {"dtesn.batch.closed_by": "", "dtesn.batch.size": 0} == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": grpc.StatusCode.OK.value[0],
        "dtesn.priority": 1,
        "dtesn.batch.size": 0,
        "dtesn.batch.closed_by": "",
    }
    assert values(unknown)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert values(rest)["url.path"] == "/v2/models/dtesn/infer"
    parents = [span.parent_span_id for span in collector.spans("compute")]
    assert (parents.count(answered.span_id), parents.count(rest.span_id), len(parents)) == (2, 1, 3)
    assert not any(b"secret" in body for body in collector.bodies)


async def test_what_is_refused_has_its_status_and_no_queueing_and_what_only_watches_is_no_trace() -> None:
    async with collecting() as collector:
        with traced(collector) as server:
            async with aiohttp.ClientSession(server.url) as http:
                await post(http, input_data="text", priority=7)
                await post(http, input_data="text", timeout=1e-6)
                await post(http, "/nothing", input_data="text")
                for path in ("/metrics", "/healthz", "/dtesn/batch_metrics"):
                    async with http.get(path) as answer:
                        assert answer.status == 200
            await ended(server)
    invalid, late = sorted(collector.spans(f"POST {PROCESS}"), key=lambda span: span.start_time_unix_nano)
    assert values(invalid)["http.response.status_code"] == 422
    assert values(invalid)["dtesn.problem.code"]
    assert invalid.status.code == Status.STATUS_CODE_UNSET  # the client's fault is no error of the server's span
    assert values(late)["http.response.status_code"] in (429, 504)
    assert late.status.code == (Status.STATUS_CODE_ERROR if values(late)["http.response.status_code"] == 504 else Status.STATUS_CODE_UNSET)
    assert {span.name for span in collector.spans()} <= {f"POST {PROCESS}", "queue", "compute", "batch"}
    assert len(collector.spans(f"POST {PROCESS}")) == 2


async def test_a_client_that_leaves_ends_its_span_without_a_status_and_nothing_complains() -> None:
    async with collecting() as collector:
        with traced(collector, TOGETHER) as server:
            async with aiohttp.ClientSession(server.url) as http:
                alone = asyncio.ensure_future(post(http, headers=SAMPLED, input_data="text"))

                async def pending(count: int) -> bool:
                    async with http.get("/dtesn/batch_metrics") as answer:
                        return (await answer.json())["pending_requests"] == count

                await eventually(lambda: pending(1))
                alone.cancel()
                await eventually(lambda: pending(0))
            await ended(server)
            assert "opentelemetry" not in server.log()
    (request,), (queue,) = collector.spans(f"POST {PROCESS}"), collector.spans("queue")
    assert "http.response.status_code" not in values(request)
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert (queue.parent_span_id, values(queue)["dtesn.outcome"]) == (request.span_id, "cancelled")
    assert len(collector.spans()) == 2


async def test_the_sampler_and_the_name_are_those_of_the_standard_environment() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "team=a"}
    async with collecting() as collector:
        with traced(collector, environ) as server:
            async with aiohttp.ClientSession(server.url) as http:
                await post(http, input_data="text")
                await post(http, headers=SAMPLED, input_data="text")
            await ended(server)
    (request,) = collector.spans(f"POST {PROCESS}")
    assert request.trace_id.hex() == TRACE
    assert len(collector.spans()) == 4
    assert (collector.resource()["service.name"], collector.resource()["team"]) == ("mine", "a")


async def test_a_trace_is_the_exemplar_of_its_latency() -> None:
    async with collecting() as collector:
        with traced(collector) as server:
            async with aiohttp.ClientSession(server.url) as http:
                await post(http, headers=SAMPLED, input_data="text")
                async with http.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as answer:
                    text = await answer.text()
            await ended(server)
    (line,) = [line for line in text.splitlines() if "trace_id" in line]
    assert line.startswith("dtesn_request_seconds_bucket")
    assert f'# {{trace_id="{TRACE}"}}' in line


async def test_a_collector_that_never_answers_delays_neither_answers_nor_the_end() -> None:
    async with collecting(hung=True) as collector:
        with traced(collector, {"OTEL_BSP_SCHEDULE_DELAY": "1", "OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}, clean=False) as server:
            async with aiohttp.ClientSession(server.url) as http:
                await post(http, input_data="text")
                await collector.reached.wait()  # the exporter now waits for its answer, for longer than any test
                for _ in range(3):
                    assert (await post(http, input_data="text"))["status"] == "200"
            assert await ended(server) == 0


async def test_a_collector_that_is_not_there_costs_no_answer_and_fills_neither_memory_nor_log() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "4",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
    }
    with running(environ, clean=False) as server:
        async with aiohttp.ClientSession(server.url) as http:
            for _ in range(100):
                assert (await post(http, input_data="text"))["status"] == "200"
        assert await ended(server) == 0
        said = [json.loads(line) for line in server.log().splitlines()]  # every line is JSON
        assert len([record for record in said if str(record.get("logger", "")).startswith("opentelemetry")]) < 50  # of 400 spans


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; expected otlp or none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "expected http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "the OTEL_ variables are not valid"),
    ],
)
def test_what_cannot_be_had_is_said_at_the_start(environ: Mapping[str, str], words: str) -> None:
    status, log = started(environ, "")
    assert status == 1
    assert words in log


def test_without_the_extra_the_error_names_it() -> None:
    status, log = started({"OTEL_TRACES_EXPORTER": "otlp"}, "import sys; sys.modules['opentelemetry'] = None; ")
    assert status == 1
    assert "install dtesn-batcher[otel]" in log


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    script = """
import asyncio, os, sys
from dtesn_sidecar.app import Sidecar
from dtesn_sidecar.config import load_configuration
async def main(): Sidecar(load_configuration(None, {}), {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, {})
asyncio.run(main())
print(*[name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf"))])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def started(environ: Mapping[str, str], before: str) -> tuple[int, str]:
    """Exit status and log of a server that should not start."""
    script = f"{before}import sys; from dtesn_sidecar.__main__ import main; sys.exit(main(['serve', '--port', '0', '--host', '127.0.0.1']))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PATH": "", **environ}, capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stderr
