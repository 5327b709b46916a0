"""What to do so that the cluster has what a resource asks for. Pure: desired and observed objects in, actions out.

Drift means the fields that we set: what others add to an object stays. A field that is no longer wanted is known by the
hash of what was applied last, which is written on the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

import msgspec

from dtesn_api import names
from dtesn_operator.kinds import DEPLOYMENT, HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT, Manifest, ObjectKey, key_of

ANNOTATION_APPLIED: Final = f"{names.GROUP}/applied"
_QUANTITIES: Final = frozenset({"requests", "limits", "averageValue", "sizeLimit", "divisor"})
_WHOLE: Final = frozenset({"ingress", "egress", "metrics", "triggers", "podMetricsEndpoints", "tolerations"})  # lists that bear no company
_SUFFIXES: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_AUTOSCALERS: Final = (HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT)


@dataclass(frozen=True, slots=True)
class Create:
    """POST it: it does not exist."""

    key: ObjectKey
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply it to the object whose UID it bears.

    `created`: the object has fields on record as set by us otherwise than by an apply. `drift`: what we want is as before, so
    somebody else changed the object.
    """

    key: ObjectKey
    manifest: Manifest
    created: bool = False
    drift: bool = False


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


Settled = Mapping[ObjectKey, tuple[str, str]]
"""For objects that the API server keeps otherwise than they were applied: the hash applied and the revision it gave."""


def plan(uid: str, desired: Sequence[Manifest], observed: Mapping[ObjectKey, Manifest], settled: Settled = MappingProxyType({})) -> Plan:
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
        else:
            ours = stamped(manifest)
            if differs(ours, found) and settled.get(key) != (applied(ours), revision(found)):
                others.append(Apply(key, _with_uid(ours, found["metadata"]["uid"]), on_record(found), applied(ours) == applied(found)))
    return Plan((*deletions, *others), tuple(conflicts), waits)


def allowed(ahead: Plan) -> Sequence[Action]:
    """The actions to carry out. With a name taken, no Deployment is made anew: its pods would mount or use what is not ours."""
    if not ahead.conflicts:
        return ahead.actions
    return [action for action in ahead.actions if not (isinstance(action, Create) and action.key.kind == DEPLOYMENT)]


def opening(actions: Sequence[Action]) -> Sequence[Action]:
    """Of a new resource's actions those up to the Deployment, which its pods wait for.

    The rest is for the next look at it. It comes at once where nothing else waits. Where thousands do, all pods start first, and a
    Service that finds them ready has its endpoints written once instead of pod by pod.
    """
    ends = (number for number, action in enumerate(actions, 1) if isinstance(action, Create) and action.key.kind == DEPLOYMENT)
    return actions[: next(ends, len(actions))]


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


def applied(manifest: Mapping[str, Any]) -> str:
    """The hash that an object bears of what was applied last."""
    return str((manifest["metadata"].get("annotations") or {}).get(ANNOTATION_APPLIED, ""))


def revision(manifest: Mapping[str, Any]) -> str:
    """What changes when an object's fields do; where the API server counts its generations, not with its status."""
    metadata = manifest["metadata"]
    return f"{metadata.get('uid')}/{metadata.get('generation') or metadata.get('resourceVersion')}"


def on_record(manifest: Mapping[str, Any]) -> bool:
    """Whether fields are on record as set by us by a POST or a patch: an apply that no longer has them would not remove them."""
    return any(
        entry.get("manager") == names.FIELD_MANAGER and entry.get("operation") == "Update" and not entry.get("subresource")
        for entry in manifest["metadata"].get("managedFields") or ()
    )


def differs(desired: Any, observed: Any, parent: str = "", *, whole: bool = False) -> bool:
    """Whether something that is desired is not so.

    Entries of lists may have company, except below the names in `_WHOLE`; lists of plain values must be equal. What says
    nothing (an empty text, false, 0) may be absent: the API server leaves it out.
    """
    if observed is None:
        return desired is not None and desired not in ("", False, 0, [], {})
    if isinstance(desired, Mapping):
        if not isinstance(observed, Mapping):
            return True
        below = parent if parent in _QUANTITIES else ""
        return any(differs(value, observed.get(key), below or key, whole=whole or key in _WHOLE) for key, value in desired.items())
    if isinstance(desired, list):
        if not isinstance(observed, list) or not all(isinstance(item, Mapping) for item in desired):
            return bool(desired != observed)
        if whole and len(desired) != len(observed):
            return True
        return any(all(differs(item, one, parent, whole=whole) for one in observed) for item in desired)
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
