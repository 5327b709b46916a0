"""The schema of a section as data: its fields, their types, bounds, defaults, prose and rules.

Read once from the msgspec types. The reader (`reading.py`), the configuration reference and every other
generator walk this, so that a bound is written down in one place: the annotation of the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

from msgspec import NODEFAULT, Struct, inspect

# Python names that say a unit only on the wire, and one that is a keyword in Python.
_WIRE = {
    "circuit_breaker_timeout": "circuitBreakerTimeoutSeconds",
    "default_timeout": "defaultTimeoutSeconds",
    "min_timeout": "minTimeoutSeconds",
    "max_timeout": "maxTimeoutSeconds",
    "from_": "from",
}


def wire_name(name: str) -> str:
    """The camelCase name of a field on the wire, with its unit: `max_timeout` -> `maxTimeoutSeconds`."""
    if name in _WIRE:
        return _WIRE[name]
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def environment_name(path: str) -> str:
    """`batching.targetBatchSize` -> `DTESN_BATCHING_TARGET_BATCH_SIZE`."""
    return "DTESN_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path).replace(".", "_").upper()


class Rule(Struct, frozen=True, kw_only=True):
    """A condition that crosses fields, declared once: checked in Python, and by the API server through `cel`.

    `fields` are the Python names it reads, the first being the one a problem is reported at (dotted where it
    lies in a section below). `holds` takes the section, or a stand-in with the same attributes. `sentence`
    follows the field's name: `{max_batch_size}` in it becomes that field's wire name and value. `cel` is the same
    condition over `self`, in which every field with a default is set.
    """

    name: str
    fields: tuple[str, ...]
    holds: Callable[[Any], bool]
    sentence: str
    cel: str


class FieldSchema(Struct, frozen=True, kw_only=True):
    """One field: its two names, its type, its default and what the annotation says beside."""

    name: str
    wire: str
    kind: inspect.Type
    default: Any
    required: bool
    description: str
    extra: dict[str, Any]

    @property
    def section(self) -> type[Struct] | None:
        """The struct below, where this field holds one (or optionally one)."""
        for option in options(self.kind):
            if isinstance(option, inspect.StructType):
                return option.cls
        return None


def bare(kind: inspect.Type) -> inspect.Type:
    """The type without its metadata."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def options(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """The members of a union, or the type itself; without metadata."""
    whole = bare(kind)
    return tuple(bare(member) for member in whole.types) if isinstance(whole, inspect.UnionType) else (whole,)


def optional(kind: inspect.Type) -> bool:
    """Whether null, which means absent, is a value of the type."""
    return any(isinstance(option, inspect.NoneType) for option in options(kind))


@cache
def fields(cls: type[Struct]) -> tuple[FieldSchema, ...]:
    """The fields of a section in order."""
    info = cast("inspect.StructType", inspect.type_info(cls))
    return tuple(_field(field) for field in info.fields)


def _field(field: inspect.Field) -> FieldSchema:
    meta = field.type if isinstance(field.type, inspect.Metadata) else inspect.Metadata(field.type)
    default = field.default
    if field.default_factory is not NODEFAULT:
        default = field.default_factory()
    return FieldSchema(
        name=field.name,
        wire=field.encode_name,
        kind=field.type,
        default=default,
        required=field.required,
        description=(meta.extra_json_schema or {}).get("description", ""),
        extra=meta.extra or {},
    )


def rules(cls: type[Struct]) -> tuple[Rule, ...]:
    """The rules of a section."""
    return cast("tuple[Rule, ...]", getattr(cls, "rules", ()))


class Place(Struct, frozen=True, kw_only=True):
    """A field where it stands: its dotted wire path, and who acts on a change there (`live`, `restart`, `operator`)."""

    path: str
    field: FieldSchema
    applies: str


def walk(cls: type[Struct], path: str = "", applies: str = "") -> Iterator[Place]:
    """Every field below a section, sections before what they hold; lists are not entered."""
    for field in fields(cls):
        here = f"{path}.{field.wire}" if path else field.wire
        acts = field.extra.get("applies", applies)
        yield Place(path=here, field=field, applies=acts)
        if field.section is not None:
            yield from walk(field.section, here, acts)


def to_wire(section: Struct) -> dict[str, Any]:
    """The section as JSON-able objects in wire names, every default written out and absent values left out."""
    return {field.wire: _wire(value) for field in fields(type(section)) if (value := getattr(section, field.name)) is not None}


def _wire(value: Any) -> Any:
    if isinstance(value, Struct):
        return to_wire(value)
    return [_wire(item) for item in value] if isinstance(value, tuple) else value
