"""What to do so that the cluster has what a resource asks for. Pure: desired and observed objects in, actions out.

Drift means the fields that we set: what others add to an object stays. A field that is no longer wanted is known by the
hash of what was applied last, which is written on the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import Any, Final

import msgspec

from dtesn_api import names
from dtesn_operator.kinds import HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT, Manifest, ObjectKey, key_of

ANNOTATION_APPLIED: Final = f"{names.GROUP}/applied"
_QUANTITIES: Final = frozenset({"requests", "limits", "averageValue", "sizeLimit", "divisor"})
_SUFFIXES: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_AUTOSCALERS: Final = (HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT)


@dataclass(frozen=True, slots=True)
class Create:
    """POST it: it does not exist."""

    key: ObjectKey
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply it to the object with this UID."""

    key: ObjectKey
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object with this UID."""

    key: ObjectKey
    uid: str


Action = Create | Apply | Delete


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions in order; the keys at which stands what is not ours; whether something must end before the rest can follow."""

    actions: tuple[Action, ...]
    conflicts: tuple[ObjectKey, ...] = ()
    waits: bool = False


def plan(uid: str, desired: Sequence[Manifest], observed: Mapping[ObjectKey, Manifest]) -> Plan:
    """What turns `observed` into `desired` for the owner with this UID. Of two autoscalers the old one goes before the new one comes."""
    deletions: list[Action] = []
    others: list[Action] = []
    conflicts: list[ObjectKey] = []
    waits = False
    wanted = {key_of(manifest): manifest for manifest in desired}
    going = [key for key, found in observed.items() if key not in wanted and controller_uid(found) == uid]
    deletions += [Delete(key, observed[key]["metadata"]["uid"]) for key in going if not _ending(observed[key])]
    for key, manifest in wanted.items():
        found = observed.get(key)
        if key.kind in _AUTOSCALERS and any(one.kind in _AUTOSCALERS for one in going):
            waits = True
        elif found is None:
            others.append(Create(key, stamped(manifest)))
        elif controller_uid(found) != uid:
            conflicts.append(key)
        elif _ending(found):
            waits = True
        elif differs(stamped(manifest), found):
            others.append(Apply(key, _with_uid(stamped(manifest), found["metadata"]["uid"])))
    return Plan((*deletions, *others), tuple(conflicts), waits)


def controller_uid(manifest: Mapping[str, Any]) -> str | None:
    """The UID of the object's controller, if it has one."""
    for reference in manifest["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return None


def stamped(manifest: Manifest) -> Manifest:
    """The manifest with its own hash as an annotation."""
    metadata = manifest["metadata"]
    digest = sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()[:16]
    return {**manifest, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), ANNOTATION_APPLIED: digest}}}


def differs(desired: Any, observed: Any, parent: str = "") -> bool:
    """Whether something that is desired is not so. Named entries of lists may have company; lists of plain values must be equal."""
    if isinstance(desired, Mapping):
        if not isinstance(observed, Mapping):
            return bool(desired)
        below = parent if parent in _QUANTITIES else ""
        return any(differs(value, observed.get(key), below or key) for key, value in desired.items())
    if isinstance(desired, list):
        found = observed if isinstance(observed, list) else []
        if all(isinstance(item, Mapping) for item in desired):
            return any(all(differs(item, one) for one in found) for item in desired)
        return desired != found
    if desired == observed and isinstance(desired, bool) == isinstance(observed, bool):
        return False
    return not (parent in _QUANTITIES and _amount(desired) is not None and _amount(desired) == _amount(observed))


def _amount(value: Any) -> Decimal | None:
    """What a Kubernetes quantity amounts to: `500m` and `0.5` are equal."""
    text = str(value)
    number, suffix = text.rstrip("numkKMGTPEi"), text[len(text.rstrip("numkKMGTPEi")) :]
    try:
        if suffix.endswith("i"):
            return Decimal(number) * Decimal(1024) ** ("KMGTPE".index(suffix[:-1]) + 1)
        return Decimal(number).scaleb(_SUFFIXES[suffix])
    except (InvalidOperation, KeyError, ValueError):
        return None


def _ending(manifest: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in manifest["metadata"]


def _with_uid(manifest: Manifest, uid: str) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "uid": uid}}
