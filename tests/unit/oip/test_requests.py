"""What a request asks for: parameters in the protocol's terms, and rows as trees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar.errors import InvalidInput, NotFound, RequestTooLarge
from dtesn_sidecar.oip.requests import Tensor, asked, known, rows
from dtesn_sidecar.oip.tensors import strings_to_bytes


def text(*values: str, shape: list[int] | None = None) -> Tensor:
    return Tensor("TEXT", "BYTES", shape or [len(values)], strings_to_bytes(values))


def series(array: np.ndarray) -> Tensor:
    return Tensor("SERIES", "FP32", list(array.shape), array.astype(np.float32).tobytes())


@pytest.mark.parametrize(("given_", "ours"), [(None, None), (0, None), (1, 0), (2, 1), (3, 2)])
def test_priority_1_is_the_highest_and_0_the_default(given_: int | None, ours: int | None) -> None:
    assert asked("", {} if given_ is None else {"priority": given_}, []).priority == ours


@pytest.mark.parametrize(("microseconds", "seconds"), [(0, None), (1, 1e-6), (2_500_000, 2.5)])
def test_the_timeout_is_in_microseconds(microseconds: int, seconds: float | None) -> None:
    assert asked("", {"timeout": microseconds}, []).timeout == seconds


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"priority": 4}, r"parameters.priority is 4, expected 1 \(highest\) to 3"),
        ({"priority": -1}, "0 or more"),
        ({"priority": True}, "parameters.priority is True"),
        ({"priority": 1.5}, "an integer"),
        ({"timeout": "soon"}, "parameters.timeout is 'soon'"),
        ({"esn_size": 2.0}, "parameters.esn_size"),
        ({"binary_data_output": 1}, "true or false"),
        ({"sequence_id": 3}, "parameters.sequence_id is unknown, expected one of priority, timeout, membrane_depth"),
    ],
)
def test_a_parameter_that_is_wrong_or_unknown_is_named(parameters: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        asked("", parameters, [])


def test_binary_data_of_an_output_goes_before_that_of_the_request() -> None:
    outputs = [("FEATURES", {"binary_data": False}), ("SCORES", {})]
    assert asked("", {"binary_data_output": True}, outputs).outputs == (("FEATURES", False), ("SCORES", True))


@pytest.mark.parametrize(
    "outputs", [[("FEATURES", {}), ("FEATURES", {})], [("FEATURES", {"classification": 3})], [("FEATURES", {"shared_memory_region": "r"})]]
)
def test_an_output_twice_or_in_a_form_that_is_not_supported_is_refused(outputs: list) -> None:
    with pytest.raises(InvalidInput, match="outputs"):
        asked("", {}, outputs)


def test_each_row_is_a_tree() -> None:
    for shape in ([3], [3, 1]):
        trees = rows([text("a", "äb", "c" * 50, shape=shape)], 100)
        assert [bytes(tree.labels) for tree in trees] == [b"a", "äb".encode(), b"c" * 50]
    array = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    trees = rows([series(array)], 100)
    assert [tree.nodes for tree in trees] == [4, 4]
    assert all(np.array_equal(tree.labels, part) for tree, part in zip(trees, array, strict=True))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "inputs is of 0 tensors"),
        ([text("a"), text("b")], "inputs is of 2 tensors, expected exactly one"),
        ([Tensor("INPUT0", "BYTES", [1], b"")], r"inputs\[0\].name is 'INPUT0', expected TEXT or SERIES"),
        ([Tensor("TEXT", "FP32", [1], b"")], "TEXT.datatype is 'FP32', expected BYTES"),
        ([Tensor("SERIES", "FP64", [1, 1, 1], b"")], "SERIES.datatype is 'FP64', expected FP32"),
        ([text("a", "b", shape=[1, 2])], r"TEXT.shape is \[1, 2\], expected \[n\] or \[n, 1\]"),
        ([Tensor("SERIES", "FP32", [4], bytes(16))], "SERIES.shape"),
        ([Tensor("SERIES", "FP32", [1, 0, 1], b"")], "at least one step"),
        ([Tensor("SERIES", "FP32", [1, 1, 0], b"")], "at least one channel"),
        ([Tensor("SERIES", "FP32", [-1, 1, 1], b"")], r"SERIES.shape\[0\] is -1"),
        ([Tensor("TEXT", "BYTES", [0], b"")], "at least one row"),
        ([text("a", "")], r"TEXT\[1\] is '', expected at least one byte"),
        ([Tensor("TEXT", "BYTES", [1], strings_to_bytes([b"\xff"]))], r"TEXT\[0\] is no valid Unicode"),
        ([series(np.array([[[1.0], [np.nan]]]))], r"SERIES\[0\]\[1\]\[0\] is nan"),
        ([series(np.array([[[1.0]], [[np.inf]]]))], r"SERIES\[1\]\[0\]\[0\] is inf"),
        ([series(np.zeros((1, 1, 2000)))], "channels"),
    ],
)
def test_what_is_wrong_with_an_input_is_named(inputs: list[Tensor], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        rows(inputs, 100)


@pytest.mark.parametrize(
    "tensor",
    [text("a" * 101), series(np.zeros((1, 101, 1))), Tensor("TEXT", "BYTES", [65_537], b""), Tensor("SERIES", "FP32", [65_537, 1, 1], b"")],
)
def test_what_is_beyond_a_bound_is_too_large(tensor: Tensor) -> None:
    with pytest.raises(RequestTooLarge, match="at most"):
        rows([tensor], 100)


@given(
    st.sampled_from(["TEXT", "SERIES"]),
    st.sampled_from(["BYTES", "FP32"]),
    st.lists(st.integers(-2, 6) | st.integers(), max_size=4),
    st.binary(max_size=64),
)
def test_any_tensor_is_rows_or_the_clients_error(name: str, datatype: str, shape: list[int], data: bytes) -> None:
    try:
        found = rows([Tensor(name, datatype, shape, data)], 100)
    except (InvalidInput, RequestTooLarge):
        return
    assert len(found) == shape[0]


def test_only_the_model_in_its_one_version_is_known() -> None:
    known("dtesn", "dtesn", "")
    known("dtesn", "dtesn", "1")
    for model, version in (("other", ""), ("dtesn", "2"), ("", "")):
        with pytest.raises(NotFound):
            known("dtesn", model, version)
