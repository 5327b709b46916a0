"""What a request may send as input: text, series, tree, json, xml, or auto; checked and flattened to one Tree.

Labels are checked in `labels`; JSON and XML documents are walked in `documents`. Everything here is iterative.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.documents import check_nesting, parse_json, parse_xml, too_large, too_many
from dtesn_sidecar.model.labels import LABEL, check_numbers, invalid, is_number, label_array, number_rows
from dtesn_sidecar.model.trees import LABEL_ROWS, Tree


def parse_input(data: object, input_format: str = "auto", *, max_nodes: int = 4096, field: str = "input_data") -> Tree:
    """The tree of one request's input.

    `data` is what a JSON decoder yields (str, numbers, lists, dicts), or bytes for text and xml, or a real
    NumPy array [T] or [T, d] for series. Raises InvalidInput (422) naming the field, the value and the range, and
    RequestTooLarge (413) with the count beyond `max_nodes` nodes.
    """
    if input_format == "auto":
        input_format = _guess(data, field)
    parser = INPUT_FORMATS.get(input_format)
    if parser is None:
        raise invalid("input_format", input_format, "one of auto, " + ", ".join(INPUT_FORMATS))
    return parser(data, max_nodes, field)


def _guess(data: object, field: str) -> str:
    if isinstance(data, str | bytes):
        return "text"
    if isinstance(data, list | tuple | np.ndarray):
        return "series"
    if isinstance(data, dict):
        return "tree" if "label" in data or "labels" in data else "json"
    raise invalid(field, data, "a string, an array or an object")


def _bound(count: int, max_nodes: int, field: str) -> None:
    if count > max_nodes:
        raise too_large(field, count, max_nodes)


def _text(data: object, max_nodes: int, field: str) -> Tree:
    """UTF-8 bytes as a chain: the first byte is the leaf, the last the root."""
    if not isinstance(data, str | bytes):
        raise invalid(field, data, "a string")
    try:
        encoded = data.encode() if isinstance(data, str) else data
        if isinstance(data, bytes):
            data.decode()
    except UnicodeError as error:
        raise InvalidInput(f"{field} is no valid Unicode text: {error}", field=field, expected="text that UTF-8 can hold") from None
    if not encoded:
        raise invalid(field, "", "at least one byte of text")
    _bound(len(encoded), max_nodes, field)
    return Tree("byte", np.frombuffer(encoded, dtype=np.uint8))


def _series(data: object, max_nodes: int, field: str) -> Tree:
    """A chain of real vectors [[...], ...]; a flat list is one channel."""
    if isinstance(data, np.ndarray):
        return _series_array(data, max_nodes, field)
    if not isinstance(data, list | tuple):
        raise invalid(field, data, "an array of numbers, or of arrays of numbers")
    if not data:
        raise invalid(field, "empty", "at least one value", phrase=True)
    _bound(len(data), max_nodes, field)
    if is_number(data[0]):
        return Tree("vector", number_rows([(value,) for value in data], lambda i, _: f"{field}[{i}]"))
    width = None
    for i, row in enumerate(data):
        if not isinstance(row, list | tuple):
            raise invalid(f"{field}[{i}]", row, "an array of numbers" if width else "a number or an array of numbers")
        width = len(row) if width is None else width
        if not 1 <= len(row) <= LABEL_ROWS:
            raise invalid(f"{field}[{i}]", f"of {len(row)} values", f"1..{LABEL_ROWS} values", phrase=True)
        if len(row) != width:
            raise invalid(f"{field}[{i}]", f"of {len(row)} values", f"{width} values, as {field}[0] has", phrase=True)
    return Tree("vector", number_rows(data, lambda i, j: f"{field}[{i}][{j}]"))


def _series_array(data: np.ndarray[Any, Any], max_nodes: int, field: str) -> Tree:
    if data.dtype.kind not in "iuf" or data.ndim not in (1, 2):
        raise invalid(field, f"an array of {data.dtype} with {data.ndim} axes", "real numbers [T] or [T, d]", phrase=True)
    rows = data.reshape(data.shape[0], -1) if data.size else data.reshape(0, 1)
    if not rows.shape[0]:
        raise invalid(field, "empty", "at least one value", phrase=True)
    _bound(rows.shape[0], max_nodes, field)
    if rows.shape[1] > LABEL_ROWS:
        raise invalid(field, f"of {rows.shape[1]} channels", f"1..{LABEL_ROWS} channels", phrase=True)
    flat = data.ndim == 1
    values = np.ascontiguousarray(rows, dtype=np.float64)
    return Tree("vector", check_numbers(values, lambda i, j: f"{field}[{i}]" if flat else f"{field}[{i}][{j}]"))


def _tree(data: object, max_nodes: int, field: str) -> Tree:
    """Nested `{"label", "children"}`, or flat `{"labels", "parents"}`."""
    if not isinstance(data, dict):
        raise invalid(field, data, 'an object with "label" and "children", or with "labels" and "parents"')
    return _flat_tree(data, max_nodes, field) if "labels" in data or "parents" in data else _nested_tree(data, max_nodes, field)


def _flat_tree(data: dict[Any, Any], max_nodes: int, field: str) -> Tree:
    _only_keys(data, ("labels", "parents"), field)
    for key in ("labels", "parents"):
        if not isinstance(data.get(key), list | tuple):
            raise invalid(f"{field}.{key}", data.get(key), "an array")
    labels, parents = data["labels"], data["parents"]
    if not labels:
        raise invalid(f"{field}.labels", "empty", "at least one label", phrase=True)
    _bound(len(labels), max_nodes, field)
    for i, parent in enumerate(parents):
        if type(parent) is not int or not -1 <= parent < len(labels):
            raise invalid(f"{field}.parents[{i}]", parent, f"-1 (the root) or 0..{len(labels) - 1}")
    kind, array = label_array(labels, lambda i: f"{field}.labels[{i}]")
    return Tree.of_parents(kind, array, np.array(parents, dtype=np.int64), field=f"{field}.parents")


def _nested_tree(data: dict[Any, Any], max_nodes: int, field: str) -> Tree:
    labels: list[object] = []
    parents: list[int] = []
    places: list[int] = []

    def path(node: int) -> str:
        steps = []
        while parents[node] >= 0:
            steps.append(f".children[{places[node]}]")
            node = parents[node]
        return field + "".join(reversed(steps))

    stack: list[tuple[object, int, int, int]] = [(data, -1, 0, 1)]
    while stack:
        node, parent, place, nesting = stack.pop()
        at = len(labels)
        parents.append(parent)
        places.append(place)
        check_nesting(nesting, field)
        if not isinstance(node, dict):
            raise invalid(path(at), node, 'an object with "label" and "children"')
        if not node.keys() <= {"label", "children"}:
            _only_keys(node, ("label", "children"), path(at))
        if "label" not in node:
            raise invalid(f"{path(at)}.label", "absent", LABEL, phrase=True)
        labels.append(node["label"])
        children = node.get("children", ())
        if not isinstance(children, list | tuple):
            raise invalid(f"{path(at)}.children", children, "an array")
        stack.extend((child, at, place, nesting + 2) for place, child in enumerate(children))
        if len(labels) + len(stack) > max_nodes:
            raise too_many(field, max_nodes, len(labels), [entry[0] for entry in stack], _children)
    kind, array = label_array(labels, lambda i: f"{path(i)}.label")
    return Tree.of_parents(kind, array, np.array(parents, dtype=np.int64), field=field)


def _children(node: object) -> Collection[object]:
    children = node.get("children") if isinstance(node, dict) else None
    return children if isinstance(children, list | tuple) else ()


def _only_keys(node: dict[Any, Any], allowed: tuple[str, ...], field: str) -> None:
    unknown = next((key for key in node if key not in allowed), None)
    if unknown is not None:
        raise invalid(
            field, f"an object with the unknown field {unknown}", "only " + " and ".join(f'"{key}"' for key in allowed), phrase=True
        )


INPUT_FORMATS: dict[str, Callable[[object, int, str], Tree]] = {
    "text": _text,
    "series": _series,
    "tree": _tree,
    "json": parse_json,
    "xml": parse_xml,
}
"""Format name -> parser of (data, max_nodes, field): the seam for further formats."""
