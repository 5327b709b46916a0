"""Bodies of REST: JSON, what is behind it, and compression within a bound."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtesn_api.problems import SpecInvalid
from dtesn_sidecar.errors import InvalidInput, MalformedBody, RequestTooLarge, UnsupportedMediaType
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.oip.bodies import Form, decode, encoding_of, json_length_of, uncompressed
from dtesn_sidecar.oip.offload import decode_there
from dtesn_sidecar.oip.requests import Asked, ManyRows
from dtesn_sidecar.oip.tensors import strings_to_bytes

SERIES = np.arange(12, dtype=np.float32).reshape(2, 3, 2)


def form(json_length: int | None = None, **more: Any) -> Form:
    return Form(max_nodes=100, max_bytes=1 << 20, json_length=json_length, **more)


def body_of(inputs: list[dict], *binary: bytes, **rest: object) -> tuple[bytes, int]:
    head = json.dumps({"inputs": inputs, **rest}).encode()
    return head + b"".join(binary), len(head)


def read(inputs: list[dict], *binary: bytes, **rest: object) -> tuple[Asked, list[Tree]]:
    body, length = body_of(inputs, *binary, **rest)
    return decode(body, form(length))


def text(size: int, **more: object) -> dict:
    return {"name": "TEXT", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": size}, **more}


def test_json_and_binary_say_the_same() -> None:
    packed = strings_to_bytes(["a", "bc"])
    flat = {"name": "SERIES", "datatype": "FP32", "shape": [2, 3, 2]}
    for first, second in (
        (read([{"name": "TEXT", "datatype": "BYTES", "shape": [2], "data": ["a", "bc"]}]), read([text(len(packed))], packed)),
        (
            read([flat | {"data": SERIES.tolist()}]),
            read([flat | {"parameters": {"binary_data_size": SERIES.nbytes}}], SERIES.tobytes()),
        ),
        (read([flat | {"data": SERIES.reshape(-1).tolist()}]), read([flat | {"data": SERIES.tolist()}])),
    ):
        assert first[0] == second[0]
        assert all(np.array_equal(one.labels, other.labels) for one, other in zip(first[1], second[1], strict=True))


def test_null_and_unknown_fields_are_as_absent() -> None:
    """Clients send `null` for what they leave out, and fields of their own."""
    inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["a"], "parameters": None, "of": "a client"}]
    wanted, trees = read(inputs, id=None, parameters=None, outputs=None, model_name="dtesn")
    assert wanted == Asked("", (), False, None, None, None, None)
    assert len(trees) == 1


@pytest.mark.parametrize(
    ("inputs", "binary", "said"),
    [
        ([text(11)], b"", "binary_data_size is 11, expected an integer from 0 to the 0 bytes that are left"),
        ([text(-1)], b"", "binary_data_size is -1"),
        ([text(True)], b"x", "binary_data_size is True"),  # type: ignore[arg-type]
        ([text(11)], bytes(12), "the body is of 12 bytes behind its JSON, expected the 11"),
        ([text(0, data=["a"])], b"", "given beside"),
        ([{"name": "TEXT", "datatype": "BYTES", "shape": [1]}], b"", r"inputs\[0\].data is absent"),
        ([text(0, parameters={"shared_memory_region": "r"})], b"", "does not support it"),
        ([text(11), text(0)], strings_to_bytes(["a", "bc"]), "inputs is of 2 tensors"),
    ],
)
def test_what_does_not_fit_together_is_named(inputs: list[dict], binary: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(inputs, binary)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "X", "datatype": "BYTES", "shape": [1], "data": []}]}, r"inputs\[0\].name"),
        ({"inputs": [{"name": "TEXT", "datatype": "INT64", "shape": [1], "data": []}]}, r"inputs\[0\].datatype is 'INT64'"),
        ({"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [-1], "data": []}]}, r"inputs\[0\].shape\[0\] is -1"),
        ({"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [2**31], "data": []}]}, r"inputs\[0\].shape\[0\]"),
        ({"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1] * 9, "data": []}]}, r"inputs\[0\].shape"),
        ({}, "inputs"),
        ([], "the body"),
    ],
)
def test_fields_of_the_json_that_are_wrong_are_named(request_: object, said: str) -> None:
    with pytest.raises(SpecInvalid, match=said):
        decode(json.dumps(request_).encode(), form())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e39", "1" + 500 * "0"])
def test_a_number_that_is_not_finite_is_named_with_its_place(number: str) -> None:
    body = f'{{"inputs": [{{"name": "SERIES", "datatype": "FP32", "shape": [1, 1, 1], "data": [{number}]}}]}}'
    with pytest.raises(
        InvalidInput, match=r"SERIES(\.data|\[0\]\[0\])\[0\] is (nan|inf|an integer of 1661 bits), expected a finite number"
    ):
        decode(body.encode(), form())


def test_a_length_beyond_the_body_is_malformed() -> None:
    with pytest.raises(MalformedBody, match="Inference-Header-Content-Length is 9, but the body has 2 bytes"):
        decode(b"{}", form(9))


@pytest.mark.parametrize("header", ["", "-1", "1.5", "+3", " 4", "99999999999", "１"])
def test_a_length_that_is_no_number_is_malformed(header: str) -> None:
    with pytest.raises(MalformedBody, match="Inference-Header-Content-Length"):
        json_length_of(header)
    assert (json_length_of("17"), json_length_of(None)) == (17, None)


def test_gzip_and_deflate_are_read_and_others_are_not() -> None:
    assert [encoding_of(header) for header in (None, "identity", " GZIP ", "deflate")] == [None, None, "gzip", "deflate"]
    for header in ("br", "gzip, gzip", "zstd", ""):
        with pytest.raises(UnsupportedMediaType, match="gzip or deflate"):
            encoding_of(header)


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@given(st.binary(max_size=300), st.sampled_from(sorted(PACK)))
def test_what_was_compressed_comes_back(data: bytes, encoding: str) -> None:
    assert uncompressed(PACK[encoding](data), encoding, 300) == data


@given(st.binary(max_size=100), st.sampled_from(sorted(PACK)), st.data())
def test_compression_that_is_cut_off_or_followed_or_noise_is_malformed(data: bytes, encoding: str, draw: st.DataObject) -> None:
    whole = PACK[encoding](data)
    cut = draw.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"x"):
        with pytest.raises(MalformedBody):
            uncompressed(wrong, encoding, 100)


@pytest.mark.parametrize("encoding", sorted(PACK))
def test_a_bomb_is_refused_at_the_bound(encoding: str) -> None:
    bomb = PACK[encoding](bytes(50_000_000))
    assert len(bomb) < 60_000
    with pytest.raises(RequestTooLarge, match="more than 1000 bytes once uncompressed"):
        uncompressed(bomb, encoding, 1000)
    assert len(uncompressed(PACK[encoding](bytes(1000)), encoding, 1000)) == 1000


@settings(max_examples=300)
@given(st.data())
def test_a_body_with_any_damage_is_read_or_the_clients_error(data: st.DataObject) -> None:
    packed = strings_to_bytes(["some", "text"])
    whole, length = body_of([text(len(packed))], packed, parameters={"priority": 2})
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(SpecInvalid, InvalidInput, MalformedBody, RequestTooLarge):
        decode(bytes(body), form(data.draw(st.sampled_from([length, None, 0, len(body)]))))


def test_the_helper_reads_what_the_loop_reads() -> None:
    packed = strings_to_bytes(["some", "text"])
    body, length = body_of([text(len(packed))], packed, id="7", outputs=[{"name": "FEATURES"}], parameters={"timeout": 5})
    wanted, trees = decode(body, form(length))
    settings_ = msgspec.to_builtins(form(length))
    (there, headers), buffers = decode_there((("dtesn_sidecar.oip.bodies", "decode", "Form"), settings_), [memoryview(body)])
    assert there == {
        "id": "7",
        "outputs": (("FEATURES", False),),
        "binary": False,
        "priority": None,
        "timeout": wanted.timeout,
        "membrane_depth": None,
        "esn_size": None,
    }
    assert len(headers) == len(buffers) == 2
    assert [bytes(buffer) for buffer in buffers] == [bytes(tree.labels) for tree in trees]


def test_many_rows_are_left_to_where_nobody_waits() -> None:
    body, length = body_of([{"name": "TEXT", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]}])
    with pytest.raises(ManyRows):
        decode(body, form(length, here=2))
    assert len(decode(body, form(length, here=3))[1]) == 3
