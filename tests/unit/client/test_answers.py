"""Answers and errors in the form that is wanted; what the client may import."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.wire import BatchItem, EngineIntegration, ModelInfo, ProblemDocument, ProcessedOutput, ProcessResult
from dtesn_sidecar.client import (
    BadAnswer,
    BadRequest,
    ClientError,
    DeadlineExceeded,
    DTESNClient,
    InvalidInput,
    NotFound,
    Overloaded,
    RequestTooLarge,
    ServerError,
    ServerFailed,
    Unavailable,
    features_array,
    features_of,
    result_of,
)
from dtesn_sidecar.client.errors import seconds_of, server_error

MODEL = ModelInfo(name="dtesn", seed=42, membrane_depth=2, esn_size=32)
HOW = EngineIntegration(batch_processed=False, dynamic_batching=True, batch_manager_active=True)


def result(**fields: object) -> ProcessResult:
    output = ProcessedOutput(**{"output": "features", "nodes": 1, "height": 0, "model": MODEL, **fields})
    return ProcessResult(processed_output=output, processing_time_ms=1.0, engine_integration=HOW)


@given(st.tuples(*(st.integers(1, 4),) * 3))
def test_features_have_the_shape_that_the_answer_says(shape: tuple[int, int, int]) -> None:
    expected = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    answer = result(features=expected.reshape(-1).tolist(), shape=list(shape))
    array = features_array(answer)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)
    assert features_of(answer) == expected.tolist()


def test_features_that_were_not_asked_for_are_an_error_that_says_how_to() -> None:
    with pytest.raises(ValueError, match='ask for output="features"'):
        features_of(result(output="summary"))


@pytest.mark.parametrize("shape", [[], [2, 2], [1, 2, 3], [0, 2, 2], [-1, -2, 2], [1, 1, 2, 2]])
def test_a_shape_that_does_not_fit_is_a_bad_answer(shape: list[int]) -> None:
    with pytest.raises(BadAnswer):
        features_of(result(features=[0.0] * 4, shape=shape))


STATUSES = {
    400: BadRequest,
    404: NotFound,
    405: BadRequest,
    413: RequestTooLarge,
    422: InvalidInput,
    429: Overloaded,
    500: ServerFailed,
    502: ServerFailed,
    503: Unavailable,
    504: DeadlineExceeded,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_each_status_has_its_exception(status: int, kind: type[ServerError]) -> None:
    body = msgspec.json.encode(
        ProblemDocument(title="t", status=status, code="c", detail="d", instance="i", field="f", value=3, expected="e")
    )
    error = server_error(status, body)
    assert type(error) is kind
    assert isinstance(error, ClientError)
    assert (error.status, error.code, error.detail, error.request_id) == (status, "c", "d", "i")
    assert (error.field, error.value, error.expected, error.retry_after) == ("f", 3, "e", None)
    assert str(error) == f"{status} c: d"


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"\xff\xfe", b"[" * 5000, b'{"title": 3}', b"null"])
def test_a_proxy_s_own_error_page_is_an_error_of_its_status(body: bytes) -> None:
    error = server_error(503, body, "7")
    assert (type(error), error.code, error.retry_after) == (Unavailable, "http_503", 7.0)
    assert len(error.detail) <= 200


def test_the_documents_own_retry_after_counts_before_the_header() -> None:
    body = msgspec.json.encode(ProblemDocument(title="t", status=429, code="c", detail="d", retry_after=4))
    assert server_error(429, body, "9").retry_after == 4.0


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 12 ", 12.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("²", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header, NOW) == seconds


@given(st.text(max_size=50))
def test_no_retry_after_header_is_a_crash(header: str) -> None:
    found = seconds_of(header)
    assert found is None or found >= 0


def test_an_input_of_a_bulk_call_gives_its_result_or_raises_its_error() -> None:
    good = BatchItem(index=0, status="success", result=result())
    assert result_of(good) is good.result
    problem = ProblemDocument(title="t", status=413, code="request_too_large", detail="d")
    with pytest.raises(RequestTooLarge):
        result_of(BatchItem(index=1, status="error", error=problem))
    with pytest.raises(BadAnswer):
        result_of(BatchItem(index=2, status="error"))


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "/path"])
def test_a_url_that_is_none_is_an_error_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url is"):
        DTESNClient(url)


@pytest.mark.parametrize("timeout", [0, -2.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_an_error_at_once(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        DTESNClient("http://localhost", timeout=timeout)


def test_the_client_imports_nothing_of_the_server() -> None:
    program = """
import sys, dtesn_sidecar.client
third = {"numpy", "orjson", "prometheus_client", "uvloop", "yaml", "rich", "sklearn", "grpc", "opentelemetry", "safetensors"}
ours = {name for name in sys.modules if name.startswith("dtesn_sidecar.") and not name.startswith("dtesn_sidecar.client")}
print(sorted(ours | third & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
