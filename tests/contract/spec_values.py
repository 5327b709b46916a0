"""Good and bad values for every field of the specification, made from its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st
from msgspec import Struct, inspect

from dtesn_api.problems import SpecInvalid
from dtesn_api.reading import read
from dtesn_api.schema import FieldSchema, bare, fields, optional, options
from dtesn_api.spec import DTESNBatcherSpec

# What a section with required fields needs before one of its fields can be tried.
REQUIRED: dict[str, dict[str, Any]] = {
    "PrometheusSource": {"name": "gateway", "url": "http://prometheus:9090", "query": "up"},
    "EngineSource": {"url": "http://localhost:2242"},
    "SecretReference": {"name": "token"},
    "PullSecret": {"name": "registry"},
    "EnvironmentVariable": {"name": "A"},
    "ConfigMapKey": {"name": "readout", "key": "weights"},
    "ClaimPath": {"claimName": "models", "path": "a"},
}


class Spot(NamedTuple):
    """A field somewhere in the tree: the section it belongs to and the wire path there, `[0]` for a list's entry."""

    path: str
    section: type[Struct]
    field: FieldSchema


def spots(cls: type[Struct] = DTESNBatcherSpec, path: str = "spec") -> Iterator[Spot]:
    """Every field, those of list entries included."""
    for field in fields(cls):
        here = f"{path}.{field.wire}"
        yield Spot(here, cls, field)
        if field.section is not None:
            yield from spots(field.section, here)
        for option in options(field.kind):
            if isinstance(option, inspect.VarTupleType):
                item = bare(option.item_type)
                if isinstance(item, inspect.StructType):
                    yield from spots(item.cls, f"{here}[0]")


def sections() -> list[type[Struct]]:
    """Every section once."""
    return list(dict.fromkeys(spot.section for spot in spots()))


def placed(spot: Spot, value: Any) -> dict[str, Any]:
    """The spec that has the value at the spot, and around it only what is required."""
    *above, leaf = spot.path.removeprefix("spec.").split(".")
    inner: Any = REQUIRED.get(spot.section.__name__, {}) | {leaf: value}
    for name in reversed(above):
        inner = {name.removesuffix("[0]"): [inner]} if name.endswith("[0]") else {name: inner}
    return inner  # type: ignore[no-any-return]


def bad_values(kind: inspect.Type) -> list[Any]:
    """Values that the type refuses: of other types, and just outside each bound."""
    bad: list[Any] = []
    choices = options(kind)
    names = {type(option).__name__ for option in choices}
    if "BoolType" not in names:
        bad.append(True)
    if not names & {"StrType", "LiteralType"}:
        bad.append("8")
    if not names & {"VarTupleType"}:
        bad.append([])
    if not names & {"DictType", "StructType"}:
        bad.append({})
    if "BoolType" in names:
        bad += [0, 1, "true"]
    for option in choices:
        match option:
            case inspect.IntType():
                bad += [1.5, float("nan"), float("inf"), -(10**30), 10**400]
                bad += [bound - 1 for bound in [option.ge] if bound is not None] + [bound + 1 for bound in [option.le] if bound is not None]
            case inspect.FloatType():
                bad += [float("nan"), float("inf"), float("-inf"), 10**400]
                bad += [bound for bound in [option.gt] if bound is not None]
                bad += [bound - 1 for bound in [option.ge] if bound is not None] + [bound + 1 for bound in [option.le] if bound is not None]
            case inspect.StrType():
                bad += ["x" * (option.max_length + 1)] if option.max_length else []
                bad += [""] if option.min_length else []
                bad += ["a\n", "\x00"] if option.pattern and not option.pattern.startswith("^/") else []
            case inspect.LiteralType():
                bad += ["", "learned", "continuous"]
            case inspect.VarTupleType():
                bad += [[None] * (option.max_length + 1)] if option.max_length else []
            case inspect.DictType():
                bad += [{str(i): 1 for i in range(option.max_length + 1)}] if option.max_length else []
    return bad


def bounds(kind: inspect.Type) -> set[str]:
    """The numbers and names that a message about a value of this type must give."""
    words: set[str] = set()
    for option in options(kind):
        match option:
            case inspect.IntType() | inspect.FloatType():
                words |= {str(bound) for bound in (option.ge, option.gt, option.le, option.lt) if bound is not None}
            case inspect.LiteralType():
                words |= {str(value) for value in option.values}
            case inspect.VarTupleType() | inspect.DictType():
                words |= {str(option.max_length)} if option.max_length else set()
    return words


def valid_value(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """A strategy for values of the type on the wire."""
    whole = [_valid(option) for option in options(kind) if not isinstance(option, inspect.NoneType)]
    return st.one_of(*whole, st.none()) if optional(kind) else st.one_of(*whole)


def _valid(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(min_value=kind.ge, max_value=kind.le)
        case inspect.FloatType():
            low, high = kind.ge if kind.ge is not None else kind.gt, kind.le
            return st.floats(low, high, exclude_min=kind.ge is None and kind.gt is not None, allow_nan=False) | st.just(high)
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.StrType():
            text = st.from_regex(kind.pattern) if kind.pattern else st.text(min_size=kind.min_length or 0, max_size=40)
            return text.filter(lambda value: (kind.min_length or 0) <= len(value) <= (kind.max_length or 10**9))
        case inspect.VarTupleType():
            return st.lists(valid_value(kind.item_type), max_size=2)
        case inspect.DictType():
            return st.dictionaries(valid_value(kind.key_type), valid_value(kind.value_type), max_size=2)
        case inspect.StructType():
            return valid_section(kind.cls)
        case _:
            return st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
                max_leaves=4,
            )


def valid_section(cls: type[Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """Wire objects that the section reads; where a rule is broken, the fields at fault are left out."""
    required = {field.wire: valid_value(field.kind) for field in fields(cls) if field.required}
    rest = {field.wire: valid_value(field.kind) for field in fields(cls) if not field.required}
    return st.fixed_dictionaries(required, optional=rest).map(lambda raw: _repaired(cls, raw))


def _repaired(cls: type[Struct], raw: dict[str, Any]) -> dict[str, Any]:
    raw = dict(raw)
    while True:
        try:
            read(cls, raw)
        except SpecInvalid as error:
            if cls.__name__ == "ReadoutSource":
                return {"path": "/readout"}
            for problem in error.problems:
                field = problem.field.partition(".")[0].partition("[")[0]
                if field in raw and field not in REQUIRED.get(cls.__name__, {}):
                    del raw[field]
                elif field == "name":
                    raw["name"] = "gateway"
                else:
                    raw = {key: value for key, value in raw.items() if key in REQUIRED.get(cls.__name__, {})}
        else:
            return raw
