"""How an object differs from what is wanted of it, field by field, for people to read. Pure.

What counts as a difference is decided by `plan.differs`; here it is only found where.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dtesn_api import names
from dtesn_operator.kinds import Manifest
from dtesn_operator.plan import ANNOTATION_APPLIED, differs

_IDENTITIES: Final = ("name", "mountPath", "containerPort", "port", "key", "type", "ip", "topologyKey")


@dataclass(frozen=True, slots=True)
class Difference:
    """A field, what it is and what it would be; None is for nothing."""

    path: tuple[str, ...]
    before: Any
    after: Any

    @property
    def text(self) -> str:
        """The path as people write it; entries of lists by what names them."""
        parts = [part if part.startswith("[") or part.replace("-", "").isalnum() else f"['{part}']" for part in self.path]
        return "".join(part if not number or part.startswith("[") else f".{part}" for number, part in enumerate(parts))


def differences(desired: Manifest, observed: Manifest, complete: Manifest | None = None) -> tuple[Difference, ...]:
    """What an apply of `desired` would change: fields that are otherwise, and fields on record as ours that are no longer wanted.

    `complete` is `desired` with the API server's defaults: they are on record too where the object was made by a POST.
    """
    found = {one.path: one for one in _otherwise(_said(desired), observed, (), ())}
    for entry in observed["metadata"].get("managedFields") or ():
        if entry.get("manager") == names.FIELD_MANAGER and not entry.get("subresource"):
            for one in _unwanted(entry.get("fieldsV1") or {}, complete or desired, observed, (), complete is not None):
                if not any(one.path[: len(path)] == path[: len(one.path)] for path in found):  # neither within nor around another
                    found[one.path] = one
    return tuple(found.values())


def _said(desired: Manifest) -> Manifest:
    """A manifest without what the operator writes to tell and to remember: the UID and the hash of what was applied."""
    metadata = {name: value for name, value in desired["metadata"].items() if name != "uid"}
    annotations = {name: value for name, value in metadata.pop("annotations", {}).items() if name != ANNOTATION_APPLIED}
    return {**desired, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}}


def merged(before: Any, after: Any) -> tuple[Difference, ...]:
    """All differences between two states of the same object; lists are compared whole unless their entries have names."""
    return tuple(_between(before, after, ()))


def _otherwise(desired: Any, observed: Any, path: tuple[str, ...], way: tuple[str | None, ...]) -> Iterator[Difference]:
    """`way` is the path of keys, with None for an entry of a list: what counts depends on where it is."""
    if not differs(_at(way, desired), _at(way, observed)):
        return
    if isinstance(desired, Mapping) and isinstance(observed, Mapping):
        for key, value in desired.items():
            yield from _otherwise(value, observed.get(key), (*path, key), (*way, key))
        return
    if not isinstance(observed, list) or not _objects(desired):
        yield Difference(path, observed, desired)
        return
    field = _identity(desired)
    present = _labelled(observed, field)
    for label, item in _labelled(desired, field).items():
        if label in present or item:
            yield from _otherwise(item, present.pop(label, None), (*path, label), (*way, None))
        else:  # an entry that says nothing is one nevertheless
            yield Difference((*path, label), None, item)
    for label, item in present.items():
        if differs(_at(way, []), _at(way, [item])):  # this list bears no company
            yield Difference((*path, label), item, None)


def _at(way: Sequence[str | None], value: Any) -> Any:
    """The value within what leads to it."""
    for key in reversed(way):
        value = [value] if key is None else {key: value}
    return value


def _objects(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, Mapping) for item in items)


def _identity(*lists: Sequence[Mapping[str, Any]]) -> str | None:
    """The field that names the entries: each has it, and no two of a list share it."""
    for field in _IDENTITIES:
        values = [[item.get(field) for item in items] for items in lists]
        if all(isinstance(value, (str, int)) for each in values for value in each) and all(len(set(each)) == len(each) for each in values):
            return field
    return None


def _labelled(items: Sequence[Any], field: str | None) -> dict[str, Any]:
    """The entries by `[name]`, or by their number."""
    found: dict[str, Any] = {}
    for number, item in enumerate(items):
        label = f"[{item[field]}]" if isinstance(item, Mapping) and field in item else f"[{number}]"
        found[label if label not in found else f"[{number}]"] = item
    return found


def _unwanted(fields: Mapping[str, Any], desired: Any, observed: Any, path: tuple[str, ...], defaulted: bool) -> Iterator[Difference]:
    """Fields of a record (`fieldsV1`) that the object has and that nobody wants any more; with the defaults in `desired` these as well."""
    for token, below in fields.items():
        kind, _, rest = token.partition(":")
        if kind == "f" and isinstance(observed, Mapping):
            wanted, found, label = _get(desired, rest), observed.get(rest), rest
        elif kind == "k" and isinstance(observed, list):
            wanted, found = _entry(desired, json.loads(rest)), _entry(observed, json.loads(rest))
            field = _identity(desired if _objects(desired) else observed)
            label = next((label for label, item in _labelled(observed, field).items() if item is found), rest)
        else:
            continue  # "." is the field itself, "v:" an entry of a list of plain values, which is compared whole
        if found is None:
            continue
        if wanted is None or (defaulted and not below and rest != ANNOTATION_APPLIED and wanted != found):
            yield Difference((*path, label), found, wanted)
        else:
            yield from _unwanted(below, wanted, found, (*path, label), defaulted)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _entry(items: Any, keys: Mapping[str, Any]) -> Any:
    """The entry with these keys, of which those with a default may be absent."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, Mapping) and all(item.get(key, value) == value for key, value in keys.items()):
            return item
    return None


def _between(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            yield from _between(before.get(key), after.get(key), (*path, key))
        return
    if not _objects(before) or not _objects(after) or (field := _identity(before, after)) is None:
        yield Difference(path, before, after)
        return
    old, new = _labelled(before, field), _labelled(after, field)
    if set(old) == set(new) and list(old) != list(new):  # only their order, or that too
        yield Difference(path, before, after)
        return
    for label in dict.fromkeys([*old, *new]):
        yield from _between(old.get(label), new.get(label), (*path, label))
