"""Every error as a problem document: status, code, headers, and nothing unbounded or of the inside."""

from __future__ import annotations

import inspect
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.bodies import BodyMalformed
from dtesn_api.problems import Problem, SpecInvalid
from dtesn_api.wire import ProblemDocument
from dtesn_sidecar import errors
from dtesn_sidecar.openapi import document
from dtesn_sidecar.problems import HTTP_CODES, RETRYABLE, HttpError, answer_for, encoded, retry_after_seconds

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DTESNError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_each_error_of_the_package_has_its_status_code_and_headers(kind: type[errors.DTESNError]) -> None:
    answer = answer_for(kind("what happened"), "the-id")
    body = answer.document
    assert (body.status, body.code, body.detail, body.instance) == (kind.status, kind.code, "what happened", "the-id")
    assert ("Retry-After" in answer.headers) == (kind.status in (429, 503, 504))
    assert msgspec.json.decode(encoded(answer), type=ProblemDocument) == body


@pytest.mark.parametrize("kind", ERRORS)
def test_each_status_is_documented_for_the_endpoints_that_compute(kind: type[errors.DTESNError]) -> None:
    for path in ("/dtesn/process_with_batching", "/dtesn/process", "/dtesn/batch_process"):
        assert str(kind.status) in document()["paths"][path]["post"]["responses"]


@pytest.mark.parametrize("status", HTTP_CODES)
def test_each_status_of_http_itself_has_a_code_and_keeps_its_headers(status: int) -> None:
    answer = answer_for(HttpError(status, headers={"Allow": "GET"}))
    assert answer.document.status == status
    assert answer.document.code == HTTP_CODES[status][0]
    assert answer.headers["Allow"] == "GET"


def test_an_unforeseen_error_tells_nothing_of_the_inside() -> None:
    answer = answer_for(KeyError("/etc/shadow"))
    assert answer.document.status == 500
    assert b"shadow" not in encoded(answer)


def test_one_problem_is_named_in_the_document_and_several_are_listed() -> None:
    first = Problem(field="a", value=1, expected="2", message="a is 1, but must be 2")
    second = Problem(field="b", value="x", expected="y", message="b is 'x', but must be y")
    alone = answer_for(SpecInvalid([first])).document
    assert (alone.status, alone.field, alone.value, alone.expected, alone.errors) == (422, "a", 1, "2", msgspec.UNSET)
    both = answer_for(SpecInvalid([first, second])).document
    assert both.errors == [first, second]
    assert both.detail == "a is 1, but must be 2\nb is 'x', but must be y"


def test_a_malformed_body_is_400() -> None:
    assert answer_for(BodyMalformed("not JSON")).document.status == 400


@given(st.text(st.characters(), max_size=5000), st.text(max_size=5000), st.one_of(st.none(), st.text(), st.floats(), st.integers()))
def test_whatever_a_client_said_the_document_is_bounded_json(detail: str, field: str, value: object) -> None:
    error = errors.InvalidInput(detail, field=field, value=value, expected="something else")
    text = encoded(answer_for(error))
    assert len(text) < 60_000
    assert msgspec.json.decode(text, type=ProblemDocument).status == 422


@given(st.one_of(st.none(), st.floats(allow_nan=True)))
def test_retry_after_is_a_whole_number_of_seconds_and_at_least_one(wait: float | None) -> None:
    seconds = retry_after_seconds(wait)
    assert isinstance(seconds, int)
    assert seconds >= 1
    if wait is not None and math.isfinite(wait):
        assert seconds >= wait


def test_retryable_statuses_are_those_of_the_retryable_errors() -> None:
    assert {kind.status for kind in ERRORS if kind.retryable} == RETRYABLE
