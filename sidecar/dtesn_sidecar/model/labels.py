"""Labels of nodes: checked numbers, vectors of one width, and stable hashes of strings.

How a label becomes an input of layer 1 is in `weights`; where labels come from is in `inputs` and `documents`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.trees import LABEL_LIMIT, LABEL_ROWS, LabelKind

NUMBER = f"a finite number, at most {LABEL_LIMIT:g} in magnitude"
LABEL = f"{NUMBER}, a list of 1..{LABEL_ROWS} of them, or a string"


def shown(value: object) -> str | int | float | bool | None:
    """What an error may repeat of a value: scalars, cut to 40 characters; of anything else its type's name."""
    if isinstance(value, str):
        return value if len(value) <= 40 else value[:37] + "..."
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    return {"list": "an array", "tuple": "an array", "dict": "an object"}.get(type(value).__name__, type(value).__name__)


def invalid(field: str, value: object, expected: str, *, phrase: bool = False) -> InvalidInput:
    """The error for one field: names it, what stood there (quoted, unless `phrase` says it in words) and what may."""
    seen = shown(value)
    if seen is None or isinstance(seen, bool):
        text = {None: "null", True: "true", False: "false"}[seen]
    elif isinstance(value, str) and not phrase:
        text = ascii(seen)
    else:
        text = str(seen)
    return InvalidInput(f"{field} is {text}, expected {expected}", field=field, value=seen, expected=expected)


def is_number(value: object) -> bool:
    """Whether this is a JSON number (booleans are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def hash_parts(*parts: str) -> int:
    """64 bits of BLAKE2b over the parts, each prefixed by its length: stable across runs, versions and machines."""
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


def number_rows(rows: Sequence[Any], field_of: Callable[[int, int], str]) -> NDArray[np.float64]:
    """Rows of numbers of one width as float64 [n, d]; every row is a non-empty sequence of the same length.

    Raises InvalidInput naming `field_of(row, column)` at the first value that is no finite number within bounds.
    """
    for i, row in enumerate(rows):
        if not set(map(type, row)) <= {int, float}:
            for j, value in enumerate(row):
                if not is_number(value):
                    raise invalid(field_of(i, j), value, NUMBER)
    try:
        array = np.array(rows, dtype=np.float64)
    except OverflowError:
        i, j, value = next((i, j, v) for i, row in enumerate(rows) for j, v in enumerate(row) if abs(v) > LABEL_LIMIT)
        raise invalid(field_of(i, j), value, NUMBER) from None
    return check_numbers(array, field_of)


def check_numbers(array: NDArray[np.float64], field_of: Callable[[int, int], str]) -> NDArray[np.float64]:
    """The array, or InvalidInput naming the first entry that is NaN, infinite or beyond LABEL_LIMIT."""
    good = np.abs(array) <= LABEL_LIMIT
    if not good.all():
        i, j = np.argwhere(~good)[0].tolist()
        raise invalid(field_of(i, j), float(array[i, j]), NUMBER)
    return array


def label_array(labels: Sequence[object], field_of: Callable[[int], str]) -> tuple[LabelKind, NDArray[Any]]:
    """Labels of one tree (all strings, all numbers, or all vectors of one width) as kind and array.

    Raises InvalidInput naming `field_of(node)` for a wrong type, a wrong value, or a width unlike the first label's.
    """
    first = labels[0]
    if isinstance(first, str):
        for i, label in enumerate(labels):
            if not isinstance(label, str):
                raise invalid(field_of(i), label, "a string, as the first label is")
        return "hash", np.array([[hash_parts(str(label))] for label in labels], dtype=np.uint64)
    width = _width(first, field_of(0))
    rows: list[Sequence[object]] = []
    for i, label in enumerate(labels):
        if isinstance(label, str):
            raise invalid(field_of(i), label, "a number or a vector, as the first label is")
        found = _width(label, field_of(i))
        if found != width:
            raise invalid(field_of(i), f"of width {found}", f"width {width}, as the first label has", phrase=True)
        rows.append(label if isinstance(label, list | tuple) else (label,))
    return "vector", number_rows(rows, lambda i, j: f"{field_of(i)}[{j}]" if isinstance(labels[i], list | tuple) else field_of(i))


def _width(label: object, field: str) -> int:
    if is_number(label):
        return 1
    if not isinstance(label, list | tuple):
        raise invalid(field, label, LABEL)
    if not 1 <= len(label) <= LABEL_ROWS:
        raise invalid(field, f"of width {len(label)}", f"width 1..{LABEL_ROWS}", phrase=True)
    return len(label)
