"""Request bodies: what is refused is named, and nothing that a client sends is worse than a refusal."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api import wire
from dtesn_api.bodies import BodyMalformed, decode_body
from dtesn_api.problems import SpecInvalid
from dtesn_api.wire import BatchMetricsResponse, BatchProcessRequest, ProblemDocument, ProcessRequest


def test_a_request_needs_nothing_but_its_input() -> None:
    assert decode_body(b'{"input_data": "a"}', ProcessRequest) == ProcessRequest(input_data="a")
    request = ProcessRequest(input_data="a")
    assert (request.input_format, request.priority, request.enable_batching) == ("auto", 1, True)
    assert (request.membrane_depth, request.esn_size, request.timeout, request.model, request.output) == (None,) * 5


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("membrane_depth", 0, "from 1 to 16"),
        ("membrane_depth", 17, "from 1 to 16"),
        ("membrane_depth", "4", "from 1 to 16"),
        ("membrane_depth", True, "from 1 to 16"),
        ("esn_size", 31, "from 32 to 4096"),
        ("esn_size", 4097, "from 32 to 4096"),
        ("esn_size", 512.5, "from 32 to 4096"),
        ("priority", -1, "from 0 to 2"),
        ("priority", 3, "from 0 to 2"),
        ("timeout", 0, "above 0 and at most the server's maxTimeoutSeconds (300 unless configured)"),
        ("timeout", -1.5, "above 0 and at most the server's maxTimeoutSeconds (300 unless configured)"),
        ("timeout", float("nan"), "above 0 and at most the server's maxTimeoutSeconds (300 unless configured)"),
        ("timeout", float("inf"), "above 0 and at most the server's maxTimeoutSeconds (300 unless configured)"),
        ("enable_batching", 1, "true or false"),
        ("model", "", "1 to 63 characters"),
        ("model", "m" * 64, "1 to 63 characters"),
        ("input_format", "csv", "auto, json, series, text, tree, xml"),
        ("output", "all", "features, readout, summary"),
    ],
)
def test_a_bad_option_names_the_field_the_value_and_the_range(name: str, bad: Any, words: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_body(json.dumps({"input_data": "a", name: bad}).encode(), ProcessRequest)
    (problem,) = caught.value.problems
    assert problem.field == name
    assert words in problem.message


@pytest.mark.parametrize("kind", [ProcessRequest, BatchProcessRequest])
def test_null_is_taken_exactly_where_the_schema_says_so(kind: type[ProcessRequest] | type[BatchProcessRequest]) -> None:
    least = {"input_data": "a"} if kind is ProcessRequest else {"inputs": ["a"]}
    properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    for name, schema in properties.items():
        if name in least:
            continue
        body = json.dumps({**least, name: None}).encode()
        if {"type": "null"} in schema.get("anyOf", []) or None in schema.get("enum", []):
            assert getattr(decode_body(body, kind), name) is None
        else:
            with pytest.raises(SpecInvalid) as caught:
                decode_body(body, kind)
            (problem,) = caught.value.problems
            assert (problem.field, problem.value) == (name, None)
            assert problem.expected
            assert f"{name} is null" in problem.message


def test_every_problem_of_a_request_is_listed() -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_body(b'{"priority": 9, "timeout": NaN, "foo": 1, "inputs": []}', ProcessRequest)
    assert [problem.field for problem in caught.value.problems] == ["foo", "inputs", "priority", "timeout", "input_data"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_named_where_they_stand(number: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_body(f'{{"input_data": {{"label": [1, {number}]}}}}'.encode(), ProcessRequest)
    assert [problem.field for problem in caught.value.problems] == ["input_data.label[1]"]


@pytest.mark.parametrize("digits", [300, 4_300, 4_301, 50_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_of_any_length_is_named_where_it_stands(digits: int, sign: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_body(f'{{"input_data": "a", "priority": {sign}{"9" * digits}}}'.encode(), ProcessRequest)
    (problem,) = caught.value.problems
    assert problem.field == "priority"
    assert problem.expected == "an integer from 0 to 2"
    assert len(problem.message) < 200


def test_in_a_bulk_request_a_number_that_is_not_finite_is_that_inputs_own_matter() -> None:
    request = decode_body(b'{"inputs": ["a", [1.0, NaN], {"label": 1e999}]}', BatchProcessRequest)
    assert request.inputs[0] == "a"
    assert request.inputs[1][1] != request.inputs[1][1]
    assert request.inputs[2] == {"label": float("inf")}
    with pytest.raises(SpecInvalid) as caught:
        decode_body(b'{"inputs": [[NaN]], "timeout": NaN, "other": Infinity}', BatchProcessRequest)
    assert {problem.field for problem in caught.value.problems} == {"timeout", "other"}


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_an_empty_body_is_said_to_be_empty(body: bytes) -> None:
    with pytest.raises(BodyMalformed, match="the body is empty"):
        decode_body(body, ProcessRequest)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"input_data": "ab\\ud800"}', "input_data"),
        (b'{"input_data": ["a", {"b": "\\udfff"}]}', r"input_data\[1\].b"),
        (b'{"input_data": "a", "\\ud800": 1}', "a name in the body"),
        (b'{"input_data": {"\\ud800": "\\ud801"}}', "a name in input_data"),
        (b'{"input_data": NaN, "x": "\\ud800"}', "x"),
    ],
)
def test_half_a_character_is_called_that_and_named_where_it_stands(body: bytes, place: str) -> None:
    with pytest.raises(BodyMalformed, match=rf"^the body is not Unicode text: {place} holds \\ud[8f][0-9a-f]{{2}}, half") as caught:
        decode_body(body, ProcessRequest)
    str(caught.value).encode()  # no half character in it


def test_a_pair_of_halves_is_a_character() -> None:
    assert decode_body(b'{"input_data": "\\ud83d\\ude00"}', ProcessRequest).input_data == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"input",
        b"\xff",
        b'{"input_data": "\xff"}',
        b'{"priority": "x", "input_data": "\xff"}',  # what is wrong first is no matter of UTF-8
        b'{"input_data": 1}}',
        b'{"input_data": 01}',
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(BodyMalformed):
        decode_body(body, ProcessRequest)


@pytest.mark.parametrize("depth", [30_000, 100_000])
@pytest.mark.parametrize("closed", [True, False])
def test_nesting_beyond_the_decoder_names_the_flat_form(depth: int, closed: bool) -> None:
    body = b'{"input_data": ' + b"[" * depth + (b"]" * depth + b"}" if closed else b"")
    with pytest.raises(SpecInvalid, match="400 levels deep; a deeper tree goes as the flat form"):
        decode_body(body, ProcessRequest)


DEEP = b"[" * 1000 + b"]" * 1000


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (b'{"input_data": "a]]\\"", "zzz": %b}' % DEEP, ProcessRequest, "zzz"),
        (b'{"input_data": {"label": "priority"}, "priority": %b}' % DEEP, ProcessRequest, "priority"),
        (b'{"zzz": {"a": [1]}, "input_data" : %b}' % DEEP, ProcessRequest, "input_data"),
        (b'{"zzz": NaN, "input_data": %b}' % DEEP, ProcessRequest, "input_data"),
        (b'{"inputs": ["a", %b]}' % DEEP, BatchProcessRequest, "inputs"),
        (DEEP, ProcessRequest, "the body"),
    ],
)
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="from 3.12 on the decoder goes deeper; what is read then is refused by its own rules"
)
def test_nesting_beyond_the_decoder_is_refused_by_the_name_of_its_field_wherever_it_is(body: bytes, kind: type, field: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_body(body, kind)
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"text"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(SpecInvalid, match=r"^the body is .*must be an object$"):
        decode_body(body, ProcessRequest)


def test_a_bulk_request_holds_at_least_one_input() -> None:
    assert decode_body(b'{"inputs": ["a", [1], {}]}', BatchProcessRequest).inputs == ["a", [1], {}]
    for body in (b'{"inputs": []}', b'{"inputs": "a"}', b"{}"):
        with pytest.raises(SpecInvalid, match=r"inputs .* 1 to 65536 entries"):
            decode_body(body, BatchProcessRequest)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_are_worse_than_a_refusal(body: bytes) -> None:
    for kind in (ProcessRequest, BatchProcessRequest, wire.DirectRequest):
        with pytest.raises((BodyMalformed, SpecInvalid)):
            decode_body(body, kind)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(ProcessRequest.__struct_fields__), json_values))
def test_any_json_object_is_taken_or_refused_by_name(raw: dict[str, Any]) -> None:
    try:
        request = decode_body(json.dumps(raw).encode(), ProcessRequest)
    except SpecInvalid as error:
        named = {problem.field.partition(".")[0].partition("[")[0] for problem in error.problems}
    else:
        named = set()
        assert msgspec.json.encode(request.input_data) == msgspec.json.encode(raw["input_data"])
    assert named <= set(ProcessRequest.__struct_fields__)


def test_what_is_not_measured_is_null_and_what_does_not_apply_is_left_out() -> None:
    metrics = dict.fromkeys(wire.BatchMetrics.__struct_fields__) | {"requests_processed": 0, "circuit_breaker_open": False}
    body = {
        "status": "success",
        "batching_enabled": True,
        "current_batch_size": 8,
        "pending_requests": 3,
        "metrics": metrics,
        "server_load": {
            "active_requests": 15,
            "queue": {"value": 0.4, "age_seconds": 0.2, "weight": 1.0},
            "gpu": {"value": None, "reason": "no"},
        },
    }
    assert msgspec.json.decode(msgspec.json.encode(msgspec.convert(body, BatchMetricsResponse))) == body
    problem = ProblemDocument(title="Queue full", status=429, detail="full", code="queue_full", retry_after=2)
    assert set(msgspec.to_builtins(problem)) == {"type", "title", "status", "detail", "code", "retry_after"}


def test_every_body_has_a_json_schema() -> None:
    kinds = [value for value in vars(wire).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)]
    _, components = msgspec.json.schema_components(kinds)
    assert {kind.__name__ for kind in kinds} - {"Struct"} <= set(components)
