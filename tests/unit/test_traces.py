"""When traces are asked for, that two observers are told as one, and that OpenTelemetry stays in its file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dtesn_sidecar.batching.protocols import BatchObserver, RequestDone, SilentObserver, Work
from dtesn_sidecar.traces import TracesUnavailable, asked_for, both
from dtesn_sidecar.traces_otel import GRPC_ERRORS, GRPC_STATUS, MAX_OPEN_BATCHES, OtelTraces

ROOT = Path(__file__).resolve().parents[2]
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "a name alone asks for nothing"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", **ENDPOINT}, False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT}, True),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_traces_are_on_where_the_standard_environment_asks_for_them(environ: Mapping[str, str], expected: bool) -> None:
    assert asked_for(environ) is expected


@pytest.mark.parametrize("environ", [{"OTEL_TRACES_EXPORTER": "console"}, {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", **ENDPOINT}])
def test_what_is_asked_for_and_not_there_is_an_error_that_names_the_variable(environ: Mapping[str, str]) -> None:
    with pytest.raises(TracesUnavailable, match=next(iter(environ))):
        asked_for(environ)


def test_two_observers_are_told_of_every_event_with_its_arguments() -> None:
    class Told(SilentObserver):
        def __init__(self) -> None:
            self.events: list[object] = []

        def direct(self, reason: str) -> None:
            self.events.append(reason)

        def cancelled(self, *, computing: bool) -> None:
            self.events.append(computing)

    first, second = Told(), Told()
    together = both(first, second)
    together.direct("requested")
    together.cancelled(computing=True)
    assert first.events == second.events == ["requested", True]
    for name, _ in inspect.getmembers(BatchObserver, inspect.isfunction):
        assert name.startswith("_") or callable(getattr(together, name))


def test_batches_whose_end_nobody_tells_of_do_not_stay_for_ever() -> None:
    exporter = InMemorySpanExporter()
    traces = OtelTraces(SimpleSpanProcessor(exporter), Resource.get_empty())
    for number in range(1, MAX_OPEN_BATCHES + 11):
        request = traces.begin("POST", "/path", "/path", {}, 0.0)
        traces.request_done(RequestDone(Work(), 1, "ok", 0.1, 0.1, 0.2, 1, False, number, "full", request.caller))
    ended = [span for span in exporter.get_finished_spans() if span.name == "batch"]
    assert len(ended) == 10


def test_a_header_that_is_no_trace_begins_a_new_one() -> None:
    traces = OtelTraces(SimpleSpanProcessor(InMemorySpanExporter()), Resource.get_empty())
    for header in ("", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01"):
        request = traces.begin("POST", "/path", "/path", {"traceparent": header}, 0.0)
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", request.traceresponse)  # sampled; 3: of a random id, too
        assert int(request.trace_id, 16)
        assert request.trace_id not in header


def test_the_status_codes_of_grpc_have_its_numbers() -> None:
    assert {name: number for number, name in enumerate(GRPC_STATUS)} == {code.name: code.value[0] for code in grpc.StatusCode}
    assert set(GRPC_ERRORS) < set(GRPC_STATUS)


def test_opentelemetry_is_imported_in_one_file() -> None:
    imports = re.compile(r"^\s*(import|from) opentelemetry", re.MULTILINE)
    sources = (ROOT / "sidecar").rglob("*.py")
    found = {source.name for source in sources if imports.search(source.read_text(encoding="utf-8"))}
    assert found == {"traces_otel.py"}
