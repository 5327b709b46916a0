"""Errors as RFC 9457 problem documents: what any exception says to the client, and with which status and headers.

The errors themselves are `errors.py`; where they are caught is `routes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec
from msgspec import UNSET

from dtesn_api.bodies import BodyMalformed
from dtesn_api.problems import Problem, SpecInvalid, problem
from dtesn_api.wire import ProblemDocument
from dtesn_sidecar.errors import DTESNError

RETRYABLE = frozenset({429, 503, 504})
_SHOWN = 200  # characters of a client's own words that are sent back
_MAX_ERRORS = 32

# Statuses that the HTTP layer itself gives: (code, what went wrong).
HTTP_CODES: Mapping[int, tuple[str, str]] = {
    400: ("malformed_request", "The request is not well-formed HTTP."),
    404: ("not_found", "There is nothing at this path; /openapi.json lists what there is."),
    405: ("method_not_allowed", "This path does not answer this method; the Allow header lists those that it answers."),
    408: ("request_timeout", "The body did not arrive in time."),
    413: ("request_too_large", "The request is larger than this server reads."),
    415: ("unsupported_media_type", "The content type is not one that this path reads."),
    417: ("expectation_failed", "The only expectation met here is 100-continue."),
    500: ("internal", "An error of this server; its log has the details under this request's id."),
}


class HttpError(Exception):
    """A request ends with this status of `HTTP_CODES`, for a reason of HTTP itself."""

    def __init__(self, status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or HTTP_CODES[status][1])
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class ProblemAnswer:
    """A problem document with the headers that belong to it."""

    document: ProblemDocument
    headers: dict[str, str] = field(default_factory=dict)


def answer_for(error: BaseException, request_id: str | None = None) -> ProblemAnswer:
    """What the client is told of an error. Anything unforeseen is a 500 that tells nothing of the inside."""
    instance = UNSET if request_id is None else request_id
    match error:
        case SpecInvalid():
            return _problem(422, "invalid_input", str(error), instance, found=list(error.problems))
        case BodyMalformed():
            return _problem(400, "malformed_body", str(error), instance)
        case DTESNError():
            found = _located(error.field, error.value, error.expected, error.detail)
            return _problem(error.status, error.code, error.detail, instance, found=found, wait=error.retry_after)
        case HttpError():
            return _problem(error.status, HTTP_CODES[error.status][0], str(error), instance, headers=error.headers)
        case _:
            return _problem(500, *HTTP_CODES[500], instance)


def encoded(answer: ProblemAnswer) -> bytes:
    """The body."""
    return msgspec.json.encode(answer.document)


def retry_after_seconds(wait: float | None) -> int:
    """The Retry-After header of a wait in seconds (None: not known): whole seconds, at least 1."""
    return 1 if wait is None or not math.isfinite(wait) else max(1, math.ceil(wait))


def _located(name: str | None, value: object, expected: str | None, detail: str) -> list[Problem]:
    if name is None:
        return []
    shown = problem(name, value, expected or "").value
    return [Problem(field=name, value=shown, expected=expected or "", message=detail)]


def _problem(
    status: int,
    code: str,
    detail: str,
    instance: str | msgspec.UnsetType,
    *,
    found: list[Problem] | None = None,
    wait: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemAnswer:
    retry = retry_after_seconds(wait) if status in RETRYABLE else None
    first = found[0] if found else None
    document = ProblemDocument(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_bounded(detail, 4000),
        code=code,
        instance=instance,
        field=UNSET if first is None else _bounded(first.field),
        value=UNSET if first is None else _plain(first.value),
        expected=UNSET if first is None else first.expected,
        errors=[_shown(entry) for entry in found[:_MAX_ERRORS]] if found and len(found) > 1 else UNSET,
        retry_after=UNSET if retry is None else retry,
    )
    return ProblemAnswer(document, {**(headers or {}), **({} if retry is None else {"Retry-After": str(retry)})})


def _shown(entry: Problem) -> Problem:
    return Problem(field=_bounded(entry.field), value=_plain(entry.value), expected=entry.expected, message=_bounded(entry.message, 1000))


def _plain(value: object) -> object:
    return _bounded(value) if isinstance(value, str) else value


def _bounded(text: str, at_most: int = _SHOWN) -> str:
    """The client's own words, bounded, and encodable: JSON escapes may have brought in lone surrogates."""
    short = text if len(text) <= at_most else text[: at_most - 3] + "..."
    return short.encode("utf-8", "backslashreplace").decode()
