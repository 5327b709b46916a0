"""OpenTelemetry: request -> queue -> compute as one trace, and a span for each batch, linked with the requests that it served.

The request's span continues the client's trace and is sampled as its sampler says (by default: as the client's was). Queue and
compute are added when the outcome is known, with the times that were measured anyway. A batch serves many traces and is part
of none: its span is a trace of its own, recorded where one of its requests is. Nothing of a request's content is recorded.
Spans are sent by a thread, from a bounded queue; what does not fit is dropped. This file alone imports OpenTelemetry.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME, SERVICE_VERSION
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, format_span_id, format_trace_id, set_span_in_context

from dtesn_sidecar.batching.protocols import BatchDone, RequestDone, SilentObserver
from dtesn_sidecar.traces import DISCONNECTED, TracesUnavailable

SERVICE: Final = "dtesn-sidecar"  # unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES names it
FLUSH_SECONDS: Final = 3.0
MAX_OPEN_BATCHES: Final = 1024  # a batch whose end nobody tells of (it was cancelled) must not stay for ever

BATCH_SIZE: Final = "dtesn.batch.size"
CLOSED_BY: Final = "dtesn.batch.closed_by"
PRIORITY: Final = "dtesn.priority"
OUTCOME: Final = "dtesn.outcome"
# The status codes of gRPC in their order, and those that are the server's fault (OpenTelemetry's conventions for RPC servers).
GRPC_STATUS: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"),
    *("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"),
    *("DATA_LOSS", "UNAUTHENTICATED"),
)
GRPC_ERRORS: Final = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


class _Request:
    """The span of one request (`RequestTrace`), and the `Caller` that its items carry."""

    __slots__ = ("_span", "batches", "caller", "context", "origin", "trace_id", "traceresponse")

    def __init__(self, span: Span, origin: int) -> None:
        context = span.get_span_context()
        self._span = span
        self.origin = origin
        self.trace_id = format_trace_id(context.trace_id)
        self.traceresponse = f"00-{self.trace_id}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"
        self.caller = self if span.is_recording() and context.trace_flags.sampled else None
        self.context = set_span_in_context(span, Context())
        self.batches: set[int] = set()

    def now(self) -> int:
        """Nanoseconds since the epoch, on a clock that does not jump while the request is under way."""
        return self.origin + time.monotonic_ns()

    def link(self) -> Link:
        return Link(self._span.get_span_context())

    def note(self, attributes: Mapping[str, str | int], link: Link | None) -> None:
        """Add to the span, unless it has ended."""
        if self._span.is_recording():
            self._span.set_attributes(attributes)
            if link is not None:
                self._span.add_link(link.context)

    def end(self, status: int, code: str | None) -> None:
        """The answer was made."""
        if status != DISCONNECTED:
            self._span.set_attribute(http_attributes.HTTP_RESPONSE_STATUS_CODE, status)
        self._end(code, str(status) if status >= 500 else None)

    def end_call(self, status: str, code: str | None) -> None:
        """The call has ended."""
        self._span.set_attribute("rpc.grpc.status_code", GRPC_STATUS.index(status))
        self._end(code, status if status in GRPC_ERRORS else None)

    def _end(self, code: str | None, error: str | None) -> None:
        """`error`: what its type is unless `code` says it better; None: the server is not at fault."""
        span = self._span
        if code is not None:
            span.set_attribute("dtesn.problem.code", code)
        if error is not None:
            span.set_status(StatusCode.ERROR)
            span.set_attribute(error_attributes.ERROR_TYPE, code or error)
        span.end(self.now())


class OtelTraces(SilentObserver):
    """Spans through one processor, which sends them. Call it on the event loop alone."""

    def __init__(self, processor: BatchSpanProcessor, resource: Resource) -> None:
        self._processor = processor
        requests = TracerProvider(resource=resource, shutdown_on_exit=False)  # its sampler is the environment's
        batches = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, span_limits=SpanLimits(max_links=4096))
        requests.add_span_processor(processor)
        batches.add_span_processor(processor)
        self._requests = requests.get_tracer("dtesn_sidecar", version("dtesn-batcher"))
        self._of_batches = batches.get_tracer("dtesn_sidecar", version("dtesn-batcher"))
        self._open: dict[int, tuple[Span, int]] = {}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """As the OTEL_ variables say (the SDK reads them from this process's environment). Raises TracesUnavailable."""
        named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own: dict[str, Any] = {SERVICE_VERSION: version("dtesn-batcher")} | ({} if named else {SERVICE_NAME: SERVICE})
        try:
            return cls(BatchSpanProcessor(OTLPSpanExporter()), Resource.create(own))
        except ValueError as error:
            raise TracesUnavailable(f"the OTEL_ variables are not valid: {error}") from error

    # -- requests ------------------------------------------------------------------------------------------------

    def begin(self, method: str, route: str, path: str, headers: Mapping[str, str], seconds: float) -> _Request:
        """The span of a request that came in `seconds` ago."""
        attributes = {
            http_attributes.HTTP_REQUEST_METHOD: method,
            http_attributes.HTTP_ROUTE: route,
            url_attributes.URL_PATH: path,
            url_attributes.URL_SCHEME: "http",
        }
        return self._begin(f"{method} {route}", headers, seconds, attributes)

    def begin_call(self, method: str, headers: Mapping[str, str], seconds: float) -> _Request:
        """The span of a call of gRPC that came in `seconds` ago."""
        service, _, name = method.removeprefix("/").partition("/")
        return self._begin(f"{service}/{name}", headers, seconds, {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name})

    def _begin(self, name: str, headers: Mapping[str, str], seconds: float, attributes: Mapping[str, str]) -> _Request:
        origin = time.time_ns() - time.monotonic_ns()
        start = origin + time.monotonic_ns() - _nanoseconds(seconds)
        span = self._requests.start_span(name, extract(headers), SpanKind.SERVER, attributes, start_time=start)
        return _Request(span, origin)

    def request_done(self, event: RequestDone) -> None:
        """An accepted request has its outcome: its queueing, its compute, and the links with its batch."""
        request = event.caller
        if not isinstance(request, _Request):
            return
        now = request.now()
        accepted = now - _nanoseconds(event.total_seconds)
        dispatched = min(accepted + _nanoseconds(event.queue_seconds), now)
        self._add(request, "queue", accepted, dispatched, {PRIORITY: event.priority, OUTCOME: event.outcome})
        if not event.batch_items:
            request.note({PRIORITY: event.priority}, None)
            return
        batch = self._batch(event.batch, request.origin, dispatched)
        link = Link(batch.get_span_context())
        attributes: dict[str, str | int] = {BATCH_SIZE: event.batch_items, CLOSED_BY: event.closed_by, OUTCOME: event.outcome}
        self._add(request, "compute", dispatched, now, attributes, link)
        new = event.batch not in request.batches
        request.batches.add(event.batch)
        request.note({PRIORITY: event.priority, BATCH_SIZE: event.batch_items, CLOSED_BY: event.closed_by}, link if new else None)
        if new:
            batch.add_link(request.link().context)

    def _add(
        self, request: _Request, name: str, start: int, end: int, attributes: Mapping[str, str | int], link: Link | None = None
    ) -> None:
        links = () if link is None else (link,)
        self._requests.start_span(name, request.context, attributes=attributes, links=links, start_time=start).end(end)

    # -- batches -------------------------------------------------------------------------------------------------

    def _batch(self, number: int, origin: int, dispatched: int) -> Span:
        """The span of a batch, begun with the first of its requests that is recorded."""
        if number not in self._open:
            if len(self._open) >= MAX_OPEN_BATCHES:
                self._open.pop(next(iter(self._open)))[0].end()
            self._open[number] = self._of_batches.start_span("batch", Context(), start_time=dispatched), origin
        return self._open[number][0]

    def batch_done(self, event: BatchDone) -> None:
        """A batch left its worker."""
        if (opened := self._open.pop(event.batch, None)) is None:
            return
        span, origin = opened
        span.set_attributes(
            {
                BATCH_SIZE: event.items,
                CLOSED_BY: event.closed_by,
                "dtesn.batch.places": event.places,
                "dtesn.batch.limit": event.limit,
                "dtesn.batch.nodes": event.nodes,
                "dtesn.batch.succeeded": event.succeeded,
                "dtesn.worker": event.worker,
            }
        )
        if not event.succeeded:
            span.set_status(StatusCode.ERROR)
        span.end(origin + time.monotonic_ns())

    # -- end -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send what is recorded; whatever the collector does, this returns within `FLUSH_SECONDS`."""
        for span, _ in self._open.values():
            span.end()
        self._open.clear()
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def send() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # the loop has been closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(settle)

        threading.Thread(target=send, name="last spans", daemon=True).start()  # a daemon: it must not keep the process
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)
