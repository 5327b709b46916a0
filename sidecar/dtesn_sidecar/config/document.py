"""YAML or JSON bytes to plain objects, whoever wrote them.

Only what a Kubernetes manifest is made of: null, booleans, numbers, strings, lists and objects. Built from the
parser's events and not by its loader: PyYAML's own composer recurses (its C variant crashes the interpreter on deep
nesting), takes the last of two equal keys, and makes dates out of strings.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from dtesn_api.problems import Problem, SpecInvalid, shown

MAX_BYTES = 1_048_576  # what a ConfigMap can hold
MAX_DEPTH = 64
MAX_VALUES = 100_000  # after aliases are written out

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"^(~|null|Null|NULL)?\Z")
_TRUE = re.compile(r"^(true|True|TRUE|yes|Yes|YES|on|On|ON)\Z")
_FALSE = re.compile(r"^(false|False|FALSE|no|No|NO|off|Off|OFF)\Z")
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"^(\.(nan|NaN|NAN)|[-+]?\.(inf|Inf|INF))\Z")
_LEADING_ZERO = re.compile(r"^[-+]?0[0-9]+\Z")


def parse_document(data: bytes, name: str) -> tuple[object, list[Problem]]:
    """The objects that the bytes say, and keys that are given twice. `name` goes before line and column in messages.

    Raises `SpecInvalid` where the bytes are empty, too many, not UTF-8, neither YAML nor JSON, more than one document,
    or nested or repeated (by aliases) beyond bounds.
    """
    if len(data) > MAX_BYTES:
        raise _invalid(name, f"{len(data)} bytes", f"a file of at most {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(name, f"byte {data[error.start]:#04x} at {error.start}", "UTF-8 text") from None
    if not text.strip():
        raise _invalid(name, "empty", "a manifest or its spec; {} is the empty spec")
    if text.lstrip().startswith("{"):
        parsed = _json(text, name)
        if parsed is not None:
            return parsed
    return _yaml(text, name)


def _invalid(name: str, value: object, expected: str) -> SpecInvalid:
    return SpecInvalid([Problem(field=name, value=value, expected=expected, message=f"{name} is {value}, but must be {expected}")])


def _json(text: str, name: str) -> tuple[object, list[Problem]] | None:
    """JSON, or None where it is not: then it may be YAML in braces."""
    found: list[Problem] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        whole = dict(pairs)
        if len(whole) < len(pairs):
            keys = [key for key, _ in pairs]
            found.extend(_twice(name, key) for key in whole if keys.count(key) > 1)
        return whole

    try:
        return json.loads(text, object_pairs_hook=unique), found
    except RecursionError:
        raise _invalid(name, "nested too deep", f"at most {MAX_DEPTH} levels deep") from None
    except ValueError:
        return None


def _twice(where: str, key: str) -> Problem:
    return Problem(field=where, value=key, expected="each key once", message=f"{where}: the key {shown(key)} is given more than once")


@dataclass(slots=True)
class _Open:
    """A list or object whose end has not come yet."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    size: int = 1
    key: str | None = None
    merging: bool = False  # the key is a plain `<<`
    merged: list[dict[str, Any]] = field(default_factory=list)


def _yaml(text: str, name: str) -> tuple[object, list[Problem]]:
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        words = " ".join(part for part in (error.context, error.problem) if part)
        expected = "YAML or JSON"
        raise SpecInvalid([Problem(field=where, value=None, expected=expected, message=f"{where} is not {expected}: {words}")]) from None
    except yaml.YAMLError as error:  # of the reader: a character that YAML does not have
        raise _invalid(name, str(error).splitlines()[0], "YAML or JSON") from None
    return builder.result, builder.found


class _Builder:
    """Objects from events, iteratively, with the size that each would have if its aliases were written out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result: object = None
        self.found: list[Problem] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._documents = 0

    def take(self, event: Any) -> None:
        """Digest the next event."""
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _invalid(self._at(event), "a second document", "absent: one file holds one document")
            case yaml.ScalarEvent():
                self._add(event, self._scalar(event), 1, event.anchor)
            case yaml.AliasEvent():
                if event.anchor not in self._anchors:
                    raise _invalid(self._at(event), f"the alias *{event.anchor}", "after its anchor, and not within it")
                value, size = self._anchors[event.anchor]
                self._add(event, value, size, None)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check_tag(event)
                if len(self._open) >= MAX_DEPTH:
                    raise _invalid(self._at(event), "nested too deep", f"at most {MAX_DEPTH} levels deep")
                self._open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                done = self._open.pop()
                for merged in done.merged:
                    done.value = {**merged, **done.value}  # type: ignore[dict-item]
                self._add(event, done.value, done.size, done.anchor)

    def _add(self, event: Any, value: Any, size: int, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, size)
        if not self._open:
            self.result = value
            return
        parent = self._open[-1]
        parent.size += size
        if parent.size > MAX_VALUES:
            raise _invalid(self._at(event), "repeated by aliases too often", f"at most {MAX_VALUES} values in all")
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is None:
            parent.key = self._key(event, value)
            parent.merging = parent.key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        elif parent.merging:
            merged = value if isinstance(value, list) else [value]
            if not all(isinstance(item, dict) for item in merged):
                raise _invalid(self._at(event), shown(value), "an object, or a list of objects, to merge")
            parent.merged += merged
            parent.key, parent.merging = None, False
        else:
            if parent.key in parent.value:
                self.found.append(_twice(self._at(event), parent.key))
            parent.value[parent.key] = value
            parent.key = None

    def _key(self, event: Any, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(event, yaml.ScalarEvent):
            return str(event.value)  # `80: x`, `on: x`: the key of a JSON object is its text
        raise _invalid(self._at(event), shown(value), "a string, since it is a key")

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        self._check_tag(event)
        text = event.value
        if not event.implicit[0]:  # quoted, a block, or tagged !!str
            return text
        if _NULL.match(text):
            return None
        if _TRUE.match(text) or _FALSE.match(text):
            return bool(_TRUE.match(text))
        if _LEADING_ZERO.match(text):  # octal for some parsers, decimal for others: left a string, which no number field takes
            return text
        if _INTEGER.match(text):
            return int(text) if len(text) <= 400 else float(text)
        if _FLOAT.match(text):
            return float(text)
        return float(text.replace(".", "")) if _NOT_FINITE.match(text) else text

    def _check_tag(self, event: Any) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise _invalid(self._at(event), shown(event.tag), "without a tag")

    def _at(self, event: Any) -> str:
        return f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
