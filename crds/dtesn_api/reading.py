"""Reading values against a schema: `Section`, and the walk that finds every problem instead of the first.

msgspec stops at the first error and does not name the value, so the specification is read by this walk over the
schema of `schema.py`. It runs at start, at a reload and in constructors, never per request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

from msgspec import UNSET, Struct, inspect
from msgspec.structs import force_setattr

from dtesn_api.problems import Problem, SpecInvalid, missing, problem, shown
from dtesn_api.schema import FieldSchema, Rule, bare, fields, optional, options, rules, wire_name

S = TypeVar("S", bound=Struct)

_UNKNOWN = 16  # unknown fields of one object that are named one by one
_DEPTH = 64  # of free-form objects (the pod template); Kubernetes's own nest about 12 deep


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=wire_name):
    """Base of every section of the specification: constructing one checks all of it.

    Raises `SpecInvalid` with every problem. Integral floats become integers and integers floats where the field
    wants them, so that a value read from YAML equals one written in Python.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()

    def __post_init__(self) -> None:
        found: list[Problem] = []
        bad: set[str] = set()
        for field in fields(type(self)):
            before = getattr(self, field.name)
            after = _value(field.kind, before, field.name, found, constructing=True)
            if after is UNSET:
                bad.add(field.name)
            else:
                _unique(field, after, field.name, found, bad)
                if after is not before:
                    force_setattr(self, field.name, after)
        found += _broken(type(self), self, "", set(), bad, constructing=True)
        if found:
            raise SpecInvalid(found)


def read(cls: type[S], raw: object, path: str = "") -> S:
    """The section that `raw` (objects as a JSON or YAML parser gives them, wire names) says.

    Null stands for absent and 8.0 for 8, as in a stored object. `path` goes before the fields in messages. Raises
    `SpecInvalid` with every problem.
    """
    found: list[Problem] = []
    value = _section(cls, raw, path, found, cross=True)
    if found or value is None:
        raise SpecInvalid(found)
    return value


def field_problems(cls: type[Struct], raw: object, path: str = "") -> list[Problem]:
    """What is wrong with the fields by themselves, rules aside: for a part that is merged before it must make sense."""
    found: list[Problem] = []
    _section(cls, raw, path, found, cross=False)
    return found


def known_part(cls: type[Struct], raw: object) -> object:
    """The value without the fields that the schema does not have, for what was stored under a newer one."""
    if not isinstance(raw, Mapping):
        return raw
    known = {field.wire: field for field in fields(cls)}
    return {key: _known_value(known[key].kind, value) for key, value in raw.items() if key in known}


def _known_value(kind: inspect.Type, raw: object) -> object:
    for option in options(kind):
        if isinstance(option, inspect.StructType) and isinstance(raw, Mapping):
            return known_part(option.cls, raw)
        if isinstance(option, inspect.VarTupleType | inspect.ListType) and isinstance(raw, list | tuple):
            return [_known_value(option.item_type, item) for item in raw]
    return raw


def _section(cls: type[S], raw: object, path: str, found: list[Problem], *, cross: bool) -> S | None:
    """The section, or None: where there are problems, and where the rules were left out."""
    before = len(found)
    if not isinstance(raw, Mapping):
        found.append(problem(path or "the body", raw, "an object"))
        return None
    known = {field.wire: field for field in fields(cls)}
    if cls.__struct_config__.forbid_unknown_fields:
        found += _unknown(path, [key for key in raw if key not in known], tuple(known))
    values: dict[str, Any] = {}
    bad: set[str] = set()
    for wire, field in known.items():
        here = _join(path, wire)
        given = raw.get(wire)
        if given is None:
            if field.required:
                found.append(missing(here, expected(field.kind)))
                bad.add(field.name)
            else:
                values[field.name] = field.default
            continue
        value = _value(field.kind, given, here, found, cross=cross)
        if value is UNSET:
            bad.add(field.name)
        else:
            values[field.name] = value
        _unique(field, given, here, found, bad)
    if cross:
        found += _broken(cls, SimpleNamespace(**values), path, {name for name in known if raw.get(name) is None}, bad, constructing=False)
    return cls(**values) if cross and len(found) == before else None


def _value(kind: inspect.Type, raw: Any, path: str, found: list[Problem], *, constructing: bool = False, cross: bool = True) -> Any:
    """The value in the type of the field; UNSET where there is a problem, which is then in `found`."""
    if raw is None and optional(kind):
        return None
    for option in options(kind):
        if _shape(option, raw, constructing=constructing):
            break
    else:
        found.append(problem(path, raw, expected(kind)))
        return UNSET
    match option:
        case inspect.StructType():
            if constructing:
                return raw
            value = _section(option.cls, raw, path, found, cross=cross)
            return UNSET if value is None else value
        case inspect.VarTupleType() | inspect.ListType():
            if not _within(option, len(raw)):
                found.append(problem(path, raw, expected(kind)))
                return UNSET
            items = [
                _value(option.item_type, item, f"{path}[{i}]", found, constructing=constructing, cross=cross) for i, item in enumerate(raw)
            ]
            if any(item is UNSET for item in items):
                return UNSET
            return items if isinstance(option, inspect.ListType) else tuple(items)
        case inspect.DictType():
            return _mapping(option, raw, path, found, kind)
        case inspect.IntType() | inspect.FloatType():
            number = _number(option, raw)
            if number is not None:
                return raw if type(raw) is type(number) else number
        case inspect.StrType():
            if _within(option, len(raw)) and (option.pattern is None or re.search(option.pattern, raw)):
                return raw
        case inspect.LiteralType():
            if raw in option.values:
                return raw
        case _:
            return raw
    found.append(problem(path, raw, expected(kind)))
    return UNSET


def _shape(kind: inspect.Type, raw: object, *, constructing: bool) -> bool:
    """Whether the value is of this kind at all, whatever its bounds."""
    match kind:
        case inspect.BoolType():
            return isinstance(raw, bool)
        case inspect.IntType():
            return not isinstance(raw, bool) and (hasattr(raw, "__index__") or (isinstance(raw, float) and raw.is_integer()))
        case inspect.FloatType():
            return not isinstance(raw, (bool, str)) and (hasattr(raw, "__float__") or hasattr(raw, "__index__"))
        case inspect.StrType() | inspect.LiteralType():
            return isinstance(raw, str)
        case inspect.VarTupleType() | inspect.ListType():
            return isinstance(raw, (list, tuple))
        case inspect.StructType():
            return isinstance(raw, kind.cls) if constructing else isinstance(raw, Mapping)
        case inspect.DictType():
            return isinstance(raw, Mapping)
        case inspect.AnyType():
            return True
        case _:
            return False


def _number(kind: inspect.IntType | inspect.FloatType, raw: Any) -> int | float | None:
    """The number in the field's type, or None where it is out of bounds, NaN, infinite or beyond a float."""
    try:
        number = int(raw) if isinstance(kind, inspect.IntType) else float(raw)
    except OverflowError:
        return None
    if isinstance(number, float) and not isfinite(number):
        return None
    above = (kind.ge is None or number >= kind.ge) and (kind.gt is None or number > kind.gt)
    below = (kind.le is None or number <= kind.le) and (kind.lt is None or number < kind.lt)
    return number if above and below else None


def _within(kind: inspect.StrType | inspect.VarTupleType | inspect.ListType | inspect.DictType, length: int) -> bool:
    return (kind.min_length or 0) <= length and (kind.max_length is None or length <= kind.max_length)


def _mapping(kind: inspect.DictType, raw: Any, path: str, found: list[Problem], whole: inspect.Type) -> Any:
    before = len(found)
    if not _within(kind, len(raw)):
        found.append(problem(path, raw, expected(whole)))
        return UNSET
    if isinstance(bare(kind.value_type), inspect.AnyType):
        _plain_json(raw, path, found)
        return raw if len(found) == before else UNSET
    given = {key: value for key, value in raw.items() if value is not None}  # null stands for absent, as the API server has it
    for key, value in given.items():
        if _value(kind.key_type, key, _join(path, key), found) is not UNSET:
            _value(kind.value_type, value, _join(path, key), found)
    if len(found) != before:
        return UNSET
    return raw if len(given) == len(raw) else given


def _plain_json(raw: object, path: str, found: list[Problem]) -> None:
    """Free-form objects must at least be JSON: string keys, finite numbers, bounded depth. Iterative."""
    stack: list[tuple[object, str, int]] = [(raw, path, 0)]
    while stack:
        value, here, depth = stack.pop()
        if depth > _DEPTH:
            found.append(problem(here, value, f"nested at most {_DEPTH} deep"))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(key, str):
                    stack.append((item, _join(here, key), depth + 1))
                else:
                    found.append(problem(_join(here, key), key, "named by a string"))
        elif isinstance(value, (list, tuple)):
            stack += [(item, f"{here}[{i}]", depth + 1) for i, item in enumerate(value)]
        elif isinstance(value, float):
            if not isfinite(value):
                found.append(problem(here, value, "a finite number"))
        elif value is not None and not isinstance(value, (bool, int, str)):
            found.append(problem(here, value, "a JSON value"))


def _unique(field: FieldSchema, value: Any, path: str, found: list[Problem], bad: set[str]) -> None:
    """The names of a named list (a Kubernetes map list) differ, whatever else is wrong with its entries."""
    key = field.extra.get("key")
    if key is None or not isinstance(value, (list, tuple)):
        return
    seen: set[str] = set()
    for i, item in enumerate(value):
        name = item.get(key) if isinstance(item, Mapping) else getattr(item, key, None)
        if not isinstance(name, str):
            continue  # a problem of its own
        if name in seen:
            found.append(problem(f"{path}[{i}].{key}", name, "different from the names before it in the list"))
            bad.add(field.name)
        seen.add(name)


def _broken(cls: type[Struct], view: Any, path: str, unset: set[str], bad: set[str], *, constructing: bool) -> list[Problem]:
    """A problem for every rule that does not hold, among those whose fields are all in order."""
    found = []
    for rule in rules(cls):
        if any(name.partition(".")[0] in bad for name in rule.fields) or rule.holds(view):
            continue
        blamed, value, words = _named(cls, view, rule.fields[0], path, unset, constructing=constructing)
        sentence = rule.sentence
        for name in rule.fields[1:]:
            sentence = sentence.replace("{" + name + "}", _named(cls, view, name, path, unset, constructing=constructing)[2])
        plain = problem(blamed, value, sentence)
        found.append(Problem(field=blamed, value=plain.value, expected=sentence, message=f"{_join(path, words)} must be {sentence}"))
    return found


def _named(cls: type[Struct], view: Any, name: str, path: str, unset: set[str], *, constructing: bool) -> tuple[str, object, str]:
    """The field's path, its value, and both in words: `maxBatchSize (32, the default)`."""
    value, section, parts = view, cls, []
    for part in name.split("."):
        value = getattr(value, part)
        field = next(field for field in fields(section) if field.name == part)
        parts.append(field.name if constructing else field.wire)
        if field.section is not None:
            section = field.section
    words = ".".join(parts)
    note = ", the default" if parts[0] in unset and len(parts) == 1 else ""
    return _join(path, words), value, f"{words} (absent)" if value is None else f"{words} ({shown(value)}{note})"


def _unknown(path: str, keys: list[object], known: tuple[str, ...]) -> list[Problem]:
    """A problem for each unknown field; beyond a few for all the rest, since a request may bring a million."""
    words = f"one of {', '.join(known)}"
    found = []
    for key in keys[:_UNKNOWN]:
        here, hint = _join(path, key), nearest(str(key), known)
        message = f"{here} is an unknown field; " + (f"did you mean {hint}?" if hint else f"it must be {words}")
        found.append(Problem(field=here, value=None, expected=words, message=message))
    if len(keys) > _UNKNOWN:
        here = path or "the body"
        message = f"{here} has {len(keys) - _UNKNOWN} more unknown fields; each must be {words}"
        found.append(Problem(field=here, value=None, expected=words, message=message))
    return found


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is closest to a misspelt one, ignoring case, or None."""
    from difflib import get_close_matches  # only where something is already wrong

    folded = {candidate.lower(): candidate for candidate in known}
    match = get_close_matches(name[:200].lower(), list(folded), n=1, cutoff=0.6)
    return folded[match[0]] if match else None


def _join(path: str, key: object) -> str:
    name = key if isinstance(key, str) and len(key) <= 63 else shown(key)
    return f"{path}.{name}" if path else name


def expected(kind: inspect.Type) -> str:
    """What the type allows, in words: `an integer from 1 to 16`."""
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra or {}).get("expected") or expected(kind.type))
    match kind:
        case inspect.UnionType():
            return " or ".join(expected(member) for member in kind.types if not isinstance(member, inspect.NoneType))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _range(kind)
        case inspect.FloatType():
            return "a finite number" + _range(kind)
        case inspect.LiteralType():
            return "one of " + ", ".join(str(value) for value in kind.values)
        case inspect.StrType():
            return "a string" + _lengths(kind, "characters") + (f" that matches {kind.pattern}" if kind.pattern else "")
        case inspect.VarTupleType() | inspect.ListType():
            return "a list" + _lengths(kind, "entries")
        case inspect.DictType():
            return "an object" + _lengths(kind, "entries")
        case inspect.StructType():
            return "an object"
        case _:
            return "a JSON value"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f"at least {kind.ge}" if kind.ge is not None else f"above {kind.gt}" if kind.gt is not None else ""
    high = f"at most {kind.le}" if kind.le is not None else f"below {kind.lt}" if kind.lt is not None else ""
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    return (" " + " and ".join(part for part in (low, high) if part)) if low or high else ""


def _lengths(kind: inspect.StrType | inspect.VarTupleType | inspect.ListType | inspect.DictType, unit: str) -> str:
    low, high = kind.min_length, kind.max_length
    if low and high is not None:
        return f" of {low} to {high} {unit}"
    return f" of at most {high} {unit}" if high is not None else f" of at least {low} {unit}" if low else ""
