"""JSON and XML documents as trees of hashed labels. Both are walked without recursion.

A label has two hashed parts: where the node stands and what it is (key or position, and type or tag), and its
value. So two nodes that differ in their value alone still share half of their label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from xml.parsers import expat

import msgspec
import numpy as np

from dtesn_sidecar.errors import InvalidInput, RequestTooLarge
from dtesn_sidecar.model.labels import hash_parts, invalid
from dtesn_sidecar.model.trees import Tree

MAX_NESTING = 400
"""Levels of nested JSON: decoders give up near 490."""

_COUNT_AT_MOST = 1_000_000
"""Counting the nodes of a document that is refused anyway ends here."""

_NO_VALUE = hash_parts("no value")


def check_nesting(levels: int, field: str) -> None:
    """InvalidInput beyond MAX_NESTING levels of arrays and objects."""
    if levels > MAX_NESTING:
        raise InvalidInput(
            f"{field} is nested deeper than {MAX_NESTING} levels; send a deep tree in the flat form "
            '{"labels": [...], "parents": [-1, 0, ...]} with input_format "tree"',
            field=field,
            value=f"more than {MAX_NESTING} levels",
            expected=f"at most {MAX_NESTING} levels, or the flat form",
        )


def too_many(
    field: str, max_nodes: int, count: int, rest: list[object], children_of: Callable[[object], Collection[object]]
) -> RequestTooLarge:
    """The refusal of a nested document with the count of all its nodes: `count` so far and those below `rest`."""
    while rest and count < _COUNT_AT_MOST:
        count += 1
        rest.extend(children_of(rest.pop()))
    some = "more than " if rest else ""
    return too_large(field, f"{some}{count}", max_nodes)


def too_large(field: str, count: int | str, max_nodes: int) -> RequestTooLarge:
    """The refusal of an input of `count` nodes."""
    return RequestTooLarge(
        f"{field} has {count} nodes, at most {max_nodes} are allowed",
        field=field,
        value=f"{count} nodes",
        expected=f"at most {max_nodes} nodes",
    )


def parse_json(data: object, max_nodes: int, field: str) -> Tree:
    """One node per JSON value; an object's children are unordered, an array's carry their position in the label.

    A string is JSON text (to send a lone JSON string, quote it). Numbers that are equal (1 and 1.0) hash equally.
    """
    if isinstance(data, str | bytes):
        try:
            data = msgspec.json.decode(data)
        except RecursionError:
            check_nesting(MAX_NESTING + 1, field)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise InvalidInput(f"{field} is no JSON: {error}", field=field, expected="a JSON document") from None
    hashes: list[tuple[int, int]] = []
    parents: list[int] = []
    places: list[str] = []

    def path(node: int) -> str:
        steps = []
        while node >= 0:
            steps.append(places[node])
            node = parents[node]
        return field + "".join(reversed(steps))

    stack: list[tuple[object, int, str, str, int]] = [(data, -1, "", "", 1)]
    while stack:
        value, parent, place, role, nesting = stack.pop()
        at = len(hashes)
        parents.append(parent)
        places.append(place)
        if isinstance(value, dict):
            check_nesting(nesting, field)
            hashes.append((hash_parts(role, "object"), _NO_VALUE))
            for key, child in value.items():
                if not isinstance(key, str):
                    raise invalid(path(at), f"an object with a key of type {type(key).__name__}", "keys that are strings", phrase=True)
                stack.append((child, at, f".{key[:40]}", "key " + key, nesting + 1))
        elif isinstance(value, list | tuple):
            check_nesting(nesting, field)
            hashes.append((hash_parts(role, "array"), _NO_VALUE))
            stack.extend((child, at, f"[{i}]", f"item {i}", nesting + 1) for i, child in enumerate(value))
        else:
            kind, text = _scalar(value, lambda at=at: path(at))  # type: ignore[misc]
            hashes.append((hash_parts(role, kind), hash_parts("value", text)))
        if len(hashes) + len(stack) > max_nodes:
            raise too_many(field, max_nodes, len(hashes), [entry[0] for entry in stack], _json_children)
    return Tree.of_parents("hash", np.array(hashes, dtype=np.uint64), np.array(parents, dtype=np.int64), field=field)


def _json_children(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _scalar(value: object, path: Callable[[], str]) -> tuple[str, str]:
    if isinstance(value, str):
        return "string", value
    if value is None:
        return "null", ""
    if isinstance(value, bool):
        return "boolean", "true" if value else "false"
    if isinstance(value, int):
        exact = value.bit_length() <= 53
        return "number", repr(float(value)) if exact else hex(value)
    if isinstance(value, float):
        if value - value != 0.0:
            raise invalid(path(), value, "a finite number")
        if value.is_integer():
            return _scalar(int(value), path)
        return "number", repr(value)
    raise invalid(path(), value, "a JSON value")


def parse_xml(data: object, max_nodes: int, field: str) -> Tree:
    """One node per element and per attribute; an element's label has its tag, its place among siblings of that
    tag, and its own text (outer blanks cut). A document type or entity declaration is refused: no expansion, no fetch.
    """
    if not isinstance(data, str | bytes):
        raise invalid(field, data, "an XML document as a string")
    walk = _XMLWalk(max_nodes, field)
    try:
        walk.parse(data)
    except expat.ExpatError as error:
        raise InvalidInput(f"{field} is no well-formed XML: {error}", field=field, expected="a well-formed XML document") from None
    except (UnicodeError, LookupError, ValueError) as error:
        raise InvalidInput(f"{field} has an encoding that is not known or not kept: {error}", field=field, expected="XML text") from None
    count = len(walk.parents)
    if walk.count > max_nodes:
        raise too_large(field, walk.count, max_nodes)
    hashes = np.empty((count, 2), dtype=np.uint64)
    hashes[:, 0] = walk.roles
    hashes[:, 1] = walk.values
    return Tree.of_parents("hash", hashes, np.array(walk.parents, dtype=np.int64), field=field)


class _XMLWalk:
    """What expat's handlers gather. Beyond `max_nodes` nodes are only counted."""

    def __init__(self, max_nodes: int, field: str) -> None:
        self.max_nodes, self.field = max_nodes, field
        self.count = 0
        self.parents: list[int] = []
        self.roles: list[int] = []
        self.values: list[int] = []
        self._open: list[tuple[int, list[str], dict[str, int]]] = [(-1, [], {})]

    def parse(self, data: str | bytes) -> None:
        parser = expat.ParserCreate("utf-8" if isinstance(data, str) else None)
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.Parse(data.encode() if isinstance(data, str) else data, True)

    def _refuse(self, *_: object) -> None:
        raise InvalidInput(
            f"{self.field} has a document type declaration or entities, which are refused",
            field=self.field,
            value="<!DOCTYPE",
            expected="XML without DTD and entities",
        )

    def _node(self, parent: int, role: int, value: int) -> int:
        self.count += 1
        if self.count <= self.max_nodes:
            self.parents.append(parent)
            self.roles.append(role)
            self.values.append(value)
        return self.count - 1

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        parent, _, seen = self._open[-1]
        place = seen.get(tag, 0)
        seen[tag] = place + 1
        node = self._node(parent, hash_parts("element", tag, str(place)), _NO_VALUE)
        for name, value in attributes.items():
            self._node(node, hash_parts("attribute", name), hash_parts("value", value))
        self._open.append((node, [], {}))

    def _text(self, text: str) -> None:
        if self.count <= self.max_nodes:
            self._open[-1][1].append(text)

    def _end(self, _: str) -> None:
        node, texts, _seen = self._open.pop()
        text = "".join(texts).strip()
        if text and node < self.max_nodes:
            self.values[node] = hash_parts("value", text)
