"""Tensors of the protocol to arrays and strings, and back: BYTES and FP32, as JSON values and as bytes. Pure.

Every length is checked against the shape before anything is allocated by it. What the rows then mean is `requests`'.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.errors import InvalidInput

_LENGTH: Final = struct.Struct("<I")
_FLOAT_BITS: Final = 1024  # no integer of fewer bits is beyond float64


def elements(shape: Sequence[int], field: str) -> int:
    """Number of elements of a shape. Raises InvalidInput for a negative dimension."""
    for axis, size in enumerate(shape):
        if size < 0:
            raise wrong(f"{field}.shape[{axis}]", str(size), "0 or more")
    return prod(shape)  # of Python's integers, which do not overflow


def strings_of_bytes(buffer: Bytes, count: int, field: str) -> list[bytes]:
    """BYTES elements, each its length (4 bytes, little-endian) and so many bytes.

    Raises InvalidInput unless `count` of them fill the buffer.
    """
    size = len(buffer)
    if _LENGTH.size * count > size:
        raise wrong(
            field, f"{size} bytes", f"at least {_LENGTH.size * count}: a length of 4 bytes before each of the {count} elements of its shape"
        )
    view, found, at = memoryview(buffer), [], 0
    for index in range(count):
        if at + _LENGTH.size > size:
            raise wrong(f"{field}[{index}]", "cut off", f"a length of 4 bytes at byte {at} of {size}")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if length > size - at:
            raise wrong(f"{field}[{index}]", f"of {length} bytes by its length", f"at most the {size - at} that are left")
        found.append(bytes(view[at : at + length]))
        at += length
    if at != size:
        raise wrong(field, f"{size} bytes", f"the {at} that the {count} elements of its shape take")
    return found


def floats_of_bytes(buffer: Bytes, shape: Sequence[int], field: str) -> NDArray[np.float32]:
    """FP32 elements, little-endian, in row-major order; a view. Raises InvalidInput unless they are as many as the shape says."""
    wanted = 4 * elements(shape, field)
    if len(buffer) != wanted:
        raise wrong(field, f"{len(buffer)} bytes", f"the {wanted} of shape {list(shape)}")
    return np.frombuffer(buffer, dtype="<f4").reshape(shape)


def strings_of_json(data: list[Any], shape: Sequence[int], field: str) -> list[bytes]:
    """BYTES elements from JSON strings, as UTF-8. Raises InvalidInput."""
    flat = _flat(data, shape, field)
    for index, value in enumerate(flat):
        if not isinstance(value, str):
            raise wrong(f"{field}[{index}]", _shown(value), "a string")
    try:
        return [value.encode() for value in flat]
    except UnicodeEncodeError as error:
        raise wrong(field, "no valid Unicode text", f"text that UTF-8 can hold ({error.reason})") from None


def floats_of_json(data: list[Any], shape: Sequence[int], field: str) -> NDArray[np.float32]:
    """FP32 elements from JSON numbers, flat or nested. What float32 cannot hold becomes infinite. Raises InvalidInput."""
    flat = _flat(data, shape, field)
    if not set(map(type, flat)) <= {int, float}:
        index, value = next((index, value) for index, value in enumerate(flat) if type(value) not in (int, float))
        raise wrong(f"{field}.data[{index}]", _shown(value), "a number")
    try:
        wide = np.array(flat, dtype=np.float64)
    except OverflowError:
        index = next(index for index, value in enumerate(flat) if isinstance(value, int) and value.bit_length() >= _FLOAT_BITS)
        raise wrong(f"{field}.data[{index}]", f"an integer of {flat[index].bit_length()} bits", "a finite number") from None
    with np.errstate(over="ignore"):
        return wide.astype(np.float32).reshape(shape)


def strings_to_bytes(values: Sequence[str | bytes]) -> bytes:
    """The BYTES elements of texts."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(text)), text) for text in encoded))


def raw_bytes(values: NDArray[np.float32] | Sequence[str]) -> Bytes:
    """A tensor's bytes as the binary extension and gRPC carry them; of an array a view."""
    if not isinstance(values, np.ndarray):
        return strings_to_bytes(values)
    return np.ascontiguousarray(values, dtype="<f4").reshape(-1).data.cast("B")


def _flat(data: list[Any], shape: Sequence[int], field: str) -> list[Any]:
    """The values of flat or nested JSON, as many as the shape says."""
    count = elements(shape, field)
    if not (data and isinstance(data[0], list)):
        if len(data) != count:
            raise wrong(f"{field}.data", f"of {len(data)} values", f"the {count} of shape {list(shape)}")
        return data
    level = data
    for axis, size in enumerate(shape):
        if axis:
            for part in level:
                if not isinstance(part, list) or len(part) != size:
                    raise wrong(f"{field}.data", f"nested otherwise than {list(shape)}", f"arrays of {size} at level {axis + 1}, or flat")
            level = list(chain.from_iterable(level))
        elif len(level) != size:
            raise wrong(f"{field}.data", f"of {len(level)} rows", f"the {size} of shape {list(shape)}")
    return level


def wrong(field: str, found: str, expected: str) -> InvalidInput:
    """The error that names the field, what is there and what should be."""
    return InvalidInput(f"{field} is {found}, expected {expected}", field=field, value=found, expected=expected)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
