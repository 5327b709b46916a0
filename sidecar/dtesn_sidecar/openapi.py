"""The OpenAPI 3.1 document: every endpoint, every status that can occur, with the bodies of `dtesn_api.wire`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import msgspec

from dtesn_api import wire
from dtesn_api.names import DEFAULT_PORT, MEDIA_EVENTS, MEDIA_JSON, MEDIA_NDJSON, MEDIA_PROBLEM
from dtesn_sidecar.oip import described as oip

_TYPES: Final = (
    wire.ProcessRequest,
    wire.DirectRequest,
    wire.BatchProcessRequest,
    wire.ProcessResponse,
    wire.BatchProcessResponse,
    wire.BatchItem,
    wire.BatchMetricsResponse,
    wire.LiveEvent,
    wire.ConfigResponse,
    wire.HealthResponse,
    wire.ProblemDocument,
    *oip.TYPES,
)

_PROBLEMS: Final = {
    400: "Malformed: the request is not HTTP, or the body is not JSON in UTF-8.",
    404: "There is no such model, or no such path.",
    405: "The path does not answer this method; Allow lists those that it answers.",
    408: "The body did not arrive in time.",
    413: "Body, nodes, depth or predicted compute are beyond their bound.",
    415: "The body's type is not application/json in UTF-8 without compression.",
    417: "An expectation other than 100-continue.",
    422: "A field is missing, unknown, of a wrong type or out of range; the answer names field, value and range.",
    429: "The queue is full, or the request could not be answered in time.",
    500: "This request alone failed.",
    503: "Starting, draining, out of memory, or the circuit breaker is open.",
    504: "The deadline passed.",
}
_RETRY: Final = {429, 503, 504}
_OF_COMPUTE: Final = (400, 404, 408, 413, 415, 417, 422, 429, 500, 503, 504)
_OF_WATCH: Final = (400, 417, 500)

_DESCRIPTION: Final = (
    "Deep Tree Echo State Networks over sequences and trees, batched dynamically. A client that closes its side of the connection "
    "before it has the answer has gone away: what it asked for is withdrawn."
)
_SERVER_TIMING: Final = (
    "Where the time went, in ms: queue, compute, size of the batch and why it was closed, where something was computed; and the total. "
    "Of a bulk call the longest of its inputs; of a stream, whose head goes out before its lines, the total until then alone."
)
_HEADERS: Final[dict[str, Any]] = {
    "X-Request-ID": {"description": "The request's own, or one made here.", "schema": {"type": "string"}},
    "Server-Timing": {"description": _SERVER_TIMING, "schema": {"type": "string"}},
    "traceresponse": {"description": "Where the request had a valid traceparent.", "schema": {"type": "string"}},
}
_RETRY_HEADER: Final = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
_PARAMETERS: Final = [
    {"name": "X-Request-ID", "in": "header", "description": "Echoed; 1 to 128 printable characters.", "schema": {"type": "string"}},
    {"name": "traceparent", "in": "header", "description": "W3C trace context.", "schema": {"type": "string"}},
]


def document() -> dict[str, Any]:
    """The document as objects."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dtesn-batcher",
            "version": version("dtesn-batcher"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": f"This server; port {DEFAULT_PORT} by default."}],
        "paths": {
            "/dtesn/process_with_batching": _post("process_with_batching", "One input, batched with others.", "ProcessRequest", _process()),
            "/dtesn/process": _post("process", "One input, computed alone.", "DirectRequest", _process()),
            "/dtesn/batch_process": _post(
                "batch_process", "Many inputs with the same options, each answered with its own status.", "BatchProcessRequest", _bulk()
            ),
            "/dtesn/batch_metrics": _get("batch_metrics", "The figures of batching.", _json("BatchMetricsResponse"), {503: None}),
            "/healthz": _get("healthz", "Whether the process is worth keeping.", _json("HealthResponse"), {503: "HealthResponse"}),
            "/readyz": _get("readyz", "Whether requests should come here.", _json("HealthResponse"), {503: "HealthResponse"}),
            "/metrics": _get("metrics", "Prometheus metrics, or OpenMetrics by Accept.", _exposition(), {}),
            "/openapi.json": _get("openapi", "This document.", {MEDIA_JSON: {"schema": {"type": "object"}}}, {}),
            "/config": _get("config", "What is in force, and what is not and why.", _json("ConfigResponse"), {}),
            "/": _unchanged(_get("page", "The live page.", _text("text/html"), {})),
            "/assets/{name}": _asset(),
            "/events": _events(),
            **oip.paths(oip.Common(_HEADERS, _RETRY_HEADER, _PARAMETERS)),
        },
        "components": {"schemas": components},
    }


def _json(name: str) -> dict[str, Any]:
    return {MEDIA_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _process() -> dict[str, Any]:
    return _json("ProcessResponse")


def _bulk() -> dict[str, Any]:
    lines = {"description": "One BatchItem per line, in the order of the inputs.", "type": "string"}
    return {**_json("BatchProcessResponse"), MEDIA_NDJSON: {"schema": lines}}


def _exposition() -> dict[str, Any]:
    text = {"schema": {"type": "string"}}
    return {"text/plain": text, "application/openmetrics-text": text}


def _text(media: str) -> dict[str, Any]:
    return {media: {"schema": {"type": "string"}}}


def _asset() -> dict[str, Any]:
    content = {**_text("text/css"), **_text("text/javascript"), **_text("image/svg+xml")}
    described = _get("asset", "A file of the live page.", content, {404: None})
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "page.css"}
    described["get"]["parameters"] = [name, *_PARAMETERS]
    return _unchanged(described)


def _unchanged(described: dict[str, Any]) -> dict[str, Any]:
    """Add the answer to who has this version already."""
    described["get"]["responses"]["304"] = {"description": "If-None-Match names this version.", "headers": _HEADERS}
    return described


def _events() -> dict[str, Any]:
    lines = "Server-sent events without end, about one a second: `data` is a LiveEvent in JSON; `event: end` says that the server ends."
    content = {
        MEDIA_EVENTS: {"schema": {"type": "string", "description": lines, "contentSchema": {"$ref": "#/components/schemas/LiveEvent"}}}
    }
    described = _get("events", "The figures of the live page.", content, {503: None})
    last = "The last event's id: the points of the charts since then are in the first event, as far as they are kept."
    described["get"]["parameters"] = [
        {"name": "Last-Event-ID", "in": "header", "description": last, "schema": {"type": "string"}},
        *_PARAMETERS,
    ]
    return described


def _problem(status: int) -> dict[str, Any]:
    content = {MEDIA_PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {"description": _PROBLEMS[status], "headers": _HEADERS | (_RETRY_HEADER if status in _RETRY else {}), "content": content}


def _answer(content: dict[str, Any], description: str = "The answer.") -> dict[str, Any]:
    return {"description": description, "headers": _HEADERS, "content": content}


def _post(operation: str, summary: str, body: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {
            "operationId": operation,
            "summary": summary,
            "parameters": _PARAMETERS,
            "requestBody": {"required": True, "content": _json(body)},
            "responses": {"200": _answer(content), **{str(status): _problem(status) for status in _OF_COMPUTE}},
        }
    }


def _get(operation: str, summary: str, content: dict[str, Any], more: dict[int, str | None]) -> dict[str, Any]:
    responses = {"200": _answer(content), **{str(status): _problem(status) for status in _OF_WATCH}}
    for status, body in more.items():
        responses[str(status)] = (
            _problem(status) if body is None else {**_answer(_json(body), "It is not, and why."), "headers": _HEADERS | _RETRY_HEADER}
        )
    return {"get": {"operationId": operation, "summary": summary, "parameters": _PARAMETERS, "responses": responses}}
