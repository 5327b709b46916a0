"""What is wrong with a value: the one shape in which the contract reports it.

The reading and the rules live in `reading.py`; the HTTP problem document lives in `wire.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

_SHOWN = 80
_USERINFO = re.compile(r"//[^/\s]*@")


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong: where, with what value, and what is allowed there.

    `field` is the path as the writer knows it (`spec.batching.targetBatchSize` in a manifest,
    `target_batch_size` in Python). `value` is the offending value (None where it is missing), `expected` the
    range or form in words, `message` the sentence for a person, which holds the other three.
    """

    field: str
    value: Any
    expected: str
    message: str


class SpecInvalid(ValueError):  # named for what it says, like the conditions of the resource
    """A specification has at least one problem. `problems` has all of them, in the order of the fields."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(problem.message for problem in self.problems))

    def __reduce__(self) -> tuple[type[SpecInvalid], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def shown(value: object) -> str:
    """The value as a message shows it: on one line, at most 80 characters, without a URL's user information."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list, tuple)):
        kind = "object" if isinstance(value, dict) else "list"
        return f"a{'n' if kind == 'object' else ''} {kind} of {len(value)}"
    if isinstance(value, str):
        text = repr(_USERINFO.sub("//***@", value[: 4 * _SHOWN]))
    elif isinstance(value, int) and value.bit_length() > 4 * _SHOWN:
        return f"an integer of {value.bit_length()} bits"  # repr would take quadratic time, or refuse
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def problem(field: str, value: object, expected: str) -> Problem:
    """A problem whose message is `FIELD is VALUE, but must be EXPECTED`."""
    return Problem(field=field, value=_plain(value), expected=expected, message=f"{field} is {shown(value)}, but must be {expected}")


def missing(field: str, expected: str) -> Problem:
    """A required field is absent."""
    return Problem(field=field, value=None, expected=expected, message=f"{field} is missing; it must be {expected}")


def _plain(value: object) -> object:
    """What may travel in a problem document: short JSON scalars as they are, all else as shown."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() <= 63:
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    if isinstance(value, str) and len(value) <= _SHOWN and not _USERINFO.search(value):
        return value
    return shown(value)
