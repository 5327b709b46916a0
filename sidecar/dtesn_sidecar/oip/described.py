"""The endpoints under `/v2` in the OpenAPI document, whose common parts `openapi.py` passes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dtesn_api import inference
from dtesn_api.inference import HEADER_JSON_LENGTH, MEDIA_BINARY
from dtesn_api.names import MEDIA_JSON

TYPES: Final = (
    inference.InferRequest,
    inference.InferResponse,
    inference.ServerMetadata,
    inference.ModelMetadata,
    inference.Live,
    inference.Ready,
    inference.ModelReady,
    inference.InferenceError,
)

_WRONG: Final = {
    400: "Not HTTP, JSON or tensors as the protocol has them, or a field out of range; the answer names field, value and range.",
    404: "There is no such model or version.",
    408: "The body did not arrive in time.",
    413: "Body, rows, steps or predicted compute are beyond their bound.",
    415: "Content-Encoding is neither gzip nor deflate.",
    417: "An expectation other than 100-continue.",
    429: "The queue is full, or the request could not be answered in time.",
    500: "This request alone failed.",
    503: "Starting, draining, out of memory, or the circuit breaker is open.",
    504: "The deadline passed.",
}
_RETRY: Final = {429, 503, 504}
_OF_WATCH: Final = (400, 417, 500)
_BINARY: Final = "A JSON object, and behind it the tensors that are binary, in their order."
_LENGTH: Final = {"type": "integer", "minimum": 0, "maximum": 9_999_999_999}


@dataclass(frozen=True, slots=True)
class Common:
    """What every operation has: headers of answers, those that name a wait, and parameters."""

    headers: Mapping[str, Any]
    retry: Mapping[str, Any]
    parameters: list[dict[str, Any]]


def paths(common: Common) -> dict[str, Any]:
    """The paths with their operations."""
    described = {
        "/v2": _get(common, "oip_server", "The server and the extensions of the Open Inference Protocol that it speaks.", "ServerMetadata"),
        "/v2/health/live": _get(common, "oip_live", "Whether the process is worth keeping.", "Live", not_so="Live"),
        "/v2/health/ready": _get(common, "oip_ready", "Whether requests should come here.", "Ready", not_so="Ready"),
    }
    model = {"name": "model", "in": "path", "required": True, "description": "spec.model.name.", "schema": {"type": "string"}}
    version = {"name": "version", "in": "path", "required": True, "description": "1, the only one.", "schema": {"type": "string"}}
    for path, suffix, named in (("", "", [model]), ("/versions/{version}", "_of_version", [model, version])):
        base = f"/v2/models/{{model}}{path}"
        described[base] = _get(common, f"oip_model{suffix}", "The model's inputs and outputs.", "ModelMetadata", named)
        ready = _get(common, f"oip_model_ready{suffix}", "Whether the model computes.", "ModelReady", named, not_so="ModelReady")
        described[f"{base}/ready"] = ready
        described[f"{base}/infer"] = _infer(common, f"oip_infer{suffix}", named)
    return described


def _infer(common: Common, operation: str, named: list[dict[str, Any]]) -> dict[str, Any]:
    binary = {MEDIA_BINARY: {"schema": {"type": "string", "format": "binary", "description": _BINARY}}}
    length = {
        "name": HEADER_JSON_LENGTH,
        "in": "header",
        "description": "Bytes of the JSON object, where tensors are behind it.",
        "schema": _LENGTH,
    }
    headers = {
        **common.headers,
        HEADER_JSON_LENGTH: {"description": "As in the request, where outputs are binary.", "schema": {"type": "integer"}},
    }
    answer = {"description": "The outputs.", "headers": headers, "content": {**_json("InferResponse"), **binary}}
    return {
        "post": {
            "operationId": operation,
            "summary": "The outputs of the rows of one tensor, each row an item of its own in the batches.",
            "parameters": [*named, length, *common.parameters],
            "requestBody": {"required": True, "content": {**_json("InferRequest"), **binary}},
            "responses": {"200": answer, **{str(status): _error(common, status) for status in _WRONG}},
        }
    }


def _get(
    common: Common, operation: str, summary: str, body: str, named: list[dict[str, Any]] | None = None, *, not_so: str | None = None
) -> dict[str, Any]:
    statuses = (*_OF_WATCH, 404) if named else _OF_WATCH
    responses: dict[str, Any] = {"200": {"description": "The answer.", "headers": common.headers, "content": _json(body)}}
    responses |= {str(status): _error(common, status) for status in statuses}
    if not_so is not None:
        responses["503"] = {"description": "It is not.", "headers": {**common.headers, **common.retry}, "content": _json(not_so)}
    return {
        "get": {"operationId": operation, "summary": summary, "parameters": [*(named or []), *common.parameters], "responses": responses}
    }


def _error(common: Common, status: int) -> dict[str, Any]:
    headers = {**common.headers, **(common.retry if status in _RETRY else {})}
    return {"description": _WRONG[status], "headers": headers, "content": _json("InferenceError")}


def _json(name: str) -> dict[str, Any]:
    return {MEDIA_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
