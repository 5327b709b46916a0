"""Tensors: what is encoded is decoded, and whatever else arrives is an error of the client's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.oip.tensors import (
    elements,
    floats_of_bytes,
    floats_of_json,
    raw_bytes,
    strings_of_bytes,
    strings_of_json,
    strings_to_bytes,
)

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
ARRAYS = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32))


@given(TEXTS)
def test_strings_survive_their_bytes(texts: list[str]) -> None:
    assert strings_of_bytes(strings_to_bytes(texts), len(texts), "x") == [text.encode() for text in texts]


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_that_are_no_text_survive_too(values: list[bytes]) -> None:
    assert strings_of_bytes(strings_to_bytes(values), len(values), "x") == values


@given(ARRAYS)
def test_arrays_survive_their_bytes_bit_by_bit(array: np.ndarray) -> None:
    found = floats_of_bytes(raw_bytes(array), array.shape, "x")
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)), st.booleans())
def test_arrays_survive_json_flat_and_nested(array: np.ndarray, nested: bool) -> None:
    data = json.loads(json.dumps((array if nested else array.reshape(-1)).tolist()))
    assert np.array_equal(floats_of_json(data, array.shape, "x"), array)


def test_an_array_that_is_not_contiguous_is_written_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert np.array_equal(floats_of_bytes(raw_bytes(array), (3, 2), "x"), array)


@given(TEXTS.filter(bool), st.data())
def test_cut_off_or_lengthened_strings_are_refused(texts: list[str], data: st.DataObject) -> None:
    whole = strings_to_bytes(texts)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(InvalidInput, match="x"):
            strings_of_bytes(wrong, len(texts), "x")


@given(st.binary(max_size=64), st.integers(0, 2**40))
def test_any_bytes_are_strings_or_refused(noise: bytes, count: int) -> None:
    try:
        found = strings_of_bytes(noise, count, "x")
    except InvalidInput:
        return
    assert strings_to_bytes(found) == noise


@given(st.binary(max_size=64), st.lists(st.integers(-(2**40), 2**40), max_size=5))
def test_any_bytes_and_shape_are_floats_or_refused(noise: bytes, shape: list[int]) -> None:
    try:
        found = floats_of_bytes(noise, shape, "x")
    except InvalidInput:
        return
    assert found.tobytes() == noise


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4), max_leaves=12
)


@given(st.lists(JSON, max_size=4), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_any_json_is_a_tensor_of_its_shape_or_refused(data: list, shape: list[int]) -> None:
    for read in (floats_of_json, strings_of_json):
        try:
            found = read(data, shape, "x")
        except InvalidInput:
            continue
        assert np.size(found) == elements(shape, "x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([True, 1.0], r"x.data\[0\] is True, expected a number"),
        (["1", 1.0], r"x.data\[0\] is '1'"),
        ([None, 1.0], "None"),
        ([1.0], r"x.data is of 1 values, expected the 2 of shape \[2\]"),
        ([[1.0], [2.0, 3.0]], r"nested otherwise than|of 2 values|is \[1.0\]"),
        ([1, 10**400], r"x.data\[1\] is an integer of 1329 bits, expected a finite number"),
    ],
)
def test_json_that_is_not_the_tensor_is_named(data: list, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        floats_of_json(data, [2], "x")


def test_what_float32_cannot_hold_is_infinite_without_a_warning() -> None:
    assert np.isinf(floats_of_json([1e39], [1], "x")).all()


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Unicode"):
        strings_of_json(["\ud800"], [1], "x")


def test_a_huge_shape_costs_nothing() -> None:
    huge = [2**31 - 1] * 8
    for read in (lambda: floats_of_bytes(b"", huge, "x"), lambda: strings_of_bytes(b"abc", elements(huge, "x"), "x")):
        with pytest.raises(InvalidInput):
            read()


def test_a_negative_dimension_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"x.shape\[1\] is -1, expected 0 or more"):
        elements([2, -1], "x")
