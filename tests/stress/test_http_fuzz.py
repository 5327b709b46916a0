"""Schemathesis against the server's own OpenAPI document: nothing is a 500, nothing is undocumented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks as openapi
from tests.integration.http_server import LONG, Server, running

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1800)]


def never_500(_context: schemathesis.CheckContext, response: schemathesis.Response, _case: schemathesis.Case) -> None:
    """503 and 504 are answers; 500 is a fault."""
    assert response.status_code != 500


CHECKS = [
    never_500,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    openapi.unsupported_method,
    openapi.negative_data_rejection,
]
MODEL, VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
INFER = (f"{MODEL}/infer", f"{VERSION}/infer")
POSTS = ("/dtesn/process_with_batching", "/dtesn/process", "/dtesn/batch_process", *INFER)
OIP = ("/v2", "/v2/health/live", "/v2/health/ready", MODEL, f"{MODEL}/ready", VERSION, f"{VERSION}/ready")
PATHS = (*POSTS, *OIP, "/dtesn/batch_metrics", "/healthz", "/readyz", "/metrics", "/openapi.json", "/config", "/", "/assets/{name}")
ENDLESS = ("/events",)  # nothing that reads to the end of an answer can fuzz it; see test_page_events.py
VALID, INVALID = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
EXAMPLES = {"POST": 500, "GET": 40}
# Small, so that what schemathesis makes up reaches compute in numbers; a model of another size takes long to build
# and is refused by its bound.
ENVIRON = {"DTESN_MODEL_ESN_SIZE": "32", "DTESN_MODEL_MEMBRANE_DEPTH": "1", "DTESN_MODEL_MAX_MODEL_BYTES": "4194304"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(ENVIRON) as server:
        yield server


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    """The server's document, read once."""
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize(
    ("path", "mode"),
    [*((path, VALID) for path in PATHS), *((path, INVALID) for path in POSTS)],  # to a GET nothing that can be sent is invalid
)
def test_every_answer_is_documented_and_none_is_a_500(schema: Any, path: str, mode: schemathesis.GenerationMode) -> None:
    method = "POST" if path in POSTS else "GET"
    session = requests.Session()

    @hypothesis.given(case=schema[path][method].as_strategy(generation_mode=mode), served=st.booleans())
    @hypothesis.settings(max_examples=EXAMPLES[method], deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    def fuzz(case: schemathesis.Case, served: bool) -> None:
        if served and "model" in (case.path_parameters or {}):  # made up, it is never the model that is served
            case.path_parameters |= {name: "dtesn" if name == "model" else "1" for name in case.path_parameters}
        case.call_and_validate(session=session, checks=CHECKS, timeout=LONG)

    with session:
        fuzz()


def test_every_endpoint_is_fuzzed(schema: Any) -> None:
    assert set(schema) == {*PATHS, *ENDLESS}


def test_the_server_outlived_the_fuzzing(server: Server) -> None:
    assert server.process.poll() is None
    assert not [record for record in server.records() if record["status"] == 500]
