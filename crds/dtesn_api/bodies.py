"""Decoding request bodies: once and fast where they are right, and with every problem named where they are not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from math import isfinite
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from dtesn_api.problems import Problem, SpecInvalid, problem
from dtesn_api.reading import expected, read
from dtesn_api.schema import fields, optional

B = TypeVar("B", bound=Struct)

MAX_NESTING = 400
_MOST_NAMED = 16  # numbers that are not finite
_MOST_DIGITS = 400  # of an integer; the largest float has 309
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*:)?|[][{}]', re.DOTALL)  # a string, with the colon of a name, or a bracket
NESTING_EXPECTED = (
    f'nested at most {MAX_NESTING} levels deep; a deeper tree goes as the flat form {{"labels": [...], "parents": [-1, 0, ...]}}'
)


class BodyMalformed(ValueError):  # the sidecar's errors are named so too
    """The bytes are not JSON, or not UTF-8."""


def decode_body(body: bytes, kind: type[B]) -> B:
    """The request that the body says.

    Raises `BodyMalformed` where it is not JSON, and `SpecInvalid` with every problem where it is and a field is
    missing, unknown, of a wrong type, out of range, NaN or infinite, or where it is nested too deep to be decoded.
    In `inputs` NaN and infinities are left: there they are an error of that input alone, found where it is read.
    """
    try:
        request: B = _decoder(kind).decode(body)
        return request
    except RecursionError:
        raise SpecInvalid([too_deep(_deep_field(body))]) from None
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    except msgspec.MsgspecError as error:
        raw, found = _objects(body, error)
    if "inputs" in kind.__struct_fields__:
        found = [problem for problem in found if not problem.field.startswith("inputs[")]
    found += _nulls(kind, raw)
    try:
        request = read(kind, raw)
    except SpecInvalid as error:
        named = {problem.field for problem in error.problems}
        raise SpecInvalid([*error.problems, *(problem for problem in found if problem.field not in named)]) from None
    if found:
        raise SpecInvalid(found)
    return request


def _nulls(kind: type[Struct], raw: object) -> list[Problem]:
    """Nulls in place of a value: in a specification they stand for an absent field, in a body only where its schema says so."""
    given = raw if isinstance(raw, dict) else {}
    return [
        problem(field.wire, None, expected(field.kind))
        for field in fields(kind)
        if field.wire in given and given[field.wire] is None and not optional(field.kind) and not field.required
    ]


def too_deep(field: str = "input_data") -> Problem:
    """The problem of nesting beyond what is decoded."""
    return Problem(field=field, value=None, expected=NESTING_EXPECTED, message=f"{field} must be {NESTING_EXPECTED}")


@cache
def _decoder(kind: type[B]) -> msgspec.json.Decoder[B]:
    return msgspec.json.Decoder(kind)


def _objects(body: bytes, first: msgspec.MsgspecError) -> tuple[Any, list[Problem]]:
    """The body as plain objects with what is not finite in them, so that the slow reading can name what is wrong with them.

    msgspec refuses NaN, Infinity, 1e999 and integers of thousands of digits as broken JSON; the standard library reads
    them, so that they can be named as values out of range.
    """
    try:
        return msgspec.json.decode(body), []
    except msgspec.MsgspecError:
        pass
    except UnicodeDecodeError as error:  # beyond what stopped the decoder above
        raise _not_utf8(error) from None
    except RecursionError:  # in a field that is unknown or wrong already, for which the decoder above stopped before it was there
        raise SpecInvalid([too_deep(_deep_field(body))]) from None
    if not body.strip():
        raise BodyMalformed("the body is empty, but must be JSON")
    try:
        raw = json.loads(body, parse_int=_integer)
    except RecursionError:
        raise SpecInvalid([too_deep(_deep_field(body))]) from None
    except ValueError:
        raise BodyMalformed(f"the body is not JSON: {first}") from None
    found: list[Problem] = []
    for path, value in _scalars(raw):
        if isinstance(value, str):
            if (half := _SURROGATE.search(value)) is not None:
                place = path.encode(errors="backslashreplace").decode()
                raise BodyMalformed(f"the body is not Unicode text: {place} holds \\u{ord(half[0]):x}, half a character")
        elif isinstance(value, float) and not isfinite(value) and len(found) < _MOST_NAMED:
            found.append(problem(path, value, "a finite number"))
    if not found:
        raise BodyMalformed(f"the body is not JSON: {first}")
    return raw, found


def _not_utf8(error: UnicodeDecodeError) -> BodyMalformed:
    return BodyMalformed(f"the body is not UTF-8: {error.reason} at byte {error.start} of a string")


def _integer(digits: str) -> int | float:
    """The integer; infinity where it is beyond any float, which `int` would refuse or take quadratic time for."""
    return float(digits) if len(digits) > _MOST_DIGITS else int(digits)


def _scalars(raw: Any) -> Iterator[tuple[str, Any]]:
    """Every scalar with its path, in their order; a key that is no Unicode text by the path of its object."""
    stack: list[tuple[Any, str]] = [(raw, "")]
    while stack:
        value, path = stack.pop()
        if isinstance(value, dict):
            yield from ((f"a name in {path or 'the body'}", key) for key in value if not key.isascii())
            stack += [(item, f"{path}.{key}" if path else key) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            stack += [(item, f"{path}[{i}]") for i, item in reversed(list(enumerate(value)))]
        else:
            yield path or "the body", value


def _deep_field(body: bytes) -> str:
    """The body's field that is nested deeper than `MAX_NESTING`, by a scan: it could not be decoded."""
    depth, name = 0, b""
    for token in _TOKEN.finditer(body):
        first = token[0][:1]
        if first == b'"':
            name = token[1] if depth == 1 and token[2] is not None else name
        elif first in b"]}":
            depth -= 1
        else:
            depth += 1
            if depth > 1 + MAX_NESTING:
                break
    return name.decode(errors="replace")[:63] or "the body"
