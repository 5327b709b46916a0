"""What the operator would do if a manifest were applied: asked of a live cluster, in which nothing is changed.

What the resource would be, the API server itself says (a dry run of the apply, so that schema, rules and admission count). What
follows from that is decided by the same `desired` and `plan` as in the operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from dtesn_api import names
from dtesn_api.problems import SpecInvalid
from dtesn_api.status import Reason
from dtesn_operator.apply import kind_missing, name_conflict, template_trouble
from dtesn_operator.batcher import Batcher, stored
from dtesn_operator.client import Client, path_of
from dtesn_operator.desired import Cluster, Desired, desired
from dtesn_operator.differences import Difference, differences, merged
from dtesn_operator.errors import ApiFailed
from dtesn_operator.kinds import DEPLOYMENT, OWNED, Kind, Manifest, ObjectKey, key_of
from dtesn_operator.plan import Apply, Create, Delete, Plan, allowed, plan
from dtesn_operator.status import Trouble

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_WRITTEN: Final = ("labels", "annotations")  # what of the metadata a person writes

Fate = Literal["create", "change", "delete", "keep", "conflict", "wait"]
"""`wait`: it comes later, or not before a person has acted."""


@dataclass(frozen=True, slots=True)
class Change:
    """What would happen to an object; `manifest` is what would be created."""

    key: ObjectKey
    fate: Fate
    differences: tuple[Difference, ...] = ()
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen to a resource and to what it owns, and of what it would be Degraded."""

    resource: Change
    owned: tuple[Change, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    paused: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything would be written."""
        return any(change.fate not in ("keep", "conflict") for change in (self.resource, *self.owned))


async def preview(client: Client, manifest: Manifest, cluster: Cluster, field_manager: str) -> Preview:
    """The preview of one manifest.

    Raises `ApiFailed` where the API server refuses the resource or the question, `ApiUnreachable` where it does not answer.
    """
    key = key_of(manifest)
    before = await client.get(key)
    after = await _applied(client, key, manifest, before, field_manager)
    resource = _of_resource(key, before, after)
    uid = "" if before is None else before["metadata"]["uid"]  # that of a dry run is nobody's
    kept = {**after, "metadata": {**after["metadata"], "uid": uid}}
    workload = await client.get(ObjectKey(DEPLOYMENT, key.namespace, key.name))
    try:
        batcher = stored(kept)
        wanted = desired(batcher, cluster, workload)
    except SpecInvalid as error:
        return Preview(resource, troubles=(Trouble(Reason.SPEC_INVALID, "; ".join(one.message for one in error.problems)),))
    if batcher.spec.paused:
        return Preview(resource, paused=True)
    observed = await _observed(client, batcher, wanted, cluster.available)
    ahead = plan(uid, wanted.objects, observed)
    if batcher.spec.template is not None and (trouble := await template_trouble(client, ahead)) is not None:
        return Preview(resource, troubles=(trouble,))
    applies = [action for action in ahead.actions if isinstance(action, Apply)]
    changed = {one.key: differences(one.manifest, observed[one.key], await _complete(client, one)) for one in applies}
    return Preview(resource, _of_owned(wanted, ahead, observed, changed), _troubles(wanted, ahead))


async def optional_kinds(client: Client) -> frozenset[Kind]:
    """The optional kinds that the cluster has."""
    return frozenset([kind for kind in OWNED if kind.optional and await client.serves(kind)])


async def _applied(client: Client, key: ObjectKey, manifest: Manifest, before: Manifest | None, field_manager: str) -> Manifest:
    """The resource as it would be stored; what was applied before and is no longer in the manifest goes, as with `kubectl apply`."""
    body = _as_written(manifest)
    query = {"dryRun": "All", "fieldManager": field_manager, "fieldValidation": "Strict"}
    found: Manifest
    if before is None:
        found = await client.call("POST", path_of(key.kind, key.namespace), body, query=query)
        return found
    path = path_of(key.kind, key.namespace, key.name)
    last = (before["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if last is None:  # applied by the server, which knows who set which field, or never applied
        headers = {"Content-Type": "application/apply-patch+yaml"}
        found = await client.call("PATCH", path, body, query={**query, "force": "true"}, headers=headers)
        return found
    headers = {"Content-Type": "application/merge-patch+json"}
    found = await client.call("PATCH", path, since(_as_written(json.loads(last)), body), query=query, headers=headers)
    return found


def since(last: Mapping[str, Any], now: Mapping[str, Any]) -> Manifest:
    """The merge patch (RFC 7386) of a manifest that was applied before in another form: what is gone is named as null."""
    patch: Manifest = {key: None for key in last if now.get(key) is None}
    for key, value in now.items():
        if value is not None:
            before = last.get(key)
            patch[key] = since(before if isinstance(before, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return patch


def _as_written(manifest: Mapping[str, Any]) -> Manifest:
    """What of a manifest is a person's: one that came from a cluster has a status and records besides."""
    metadata = manifest.get("metadata") or {}
    written = {name: {**metadata[name]} for name in _WRITTEN if metadata.get(name)}
    written.get("annotations", {}).pop(LAST_APPLIED, None)
    return {
        **{name: manifest[name] for name in ("apiVersion", "kind")},
        "metadata": {"name": metadata["name"], "namespace": metadata.get("namespace"), **written},
        "spec": manifest.get("spec") or {},
    }


async def _observed(client: Client, batcher: Batcher, wanted: Desired, available: frozenset[Kind]) -> dict[ObjectKey, Manifest]:
    """What bears the resource's label, and what stands at the names that it wants."""
    labels = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER},{names.LABEL_INSTANCE}={batcher.name}"
    found: dict[ObjectKey, Manifest] = {}
    for kind in OWNED:
        if not kind.optional or kind in available:
            async for one in client.list(kind, batcher.namespace, labels=labels):
                found[key_of(one)] = one
    for key in map(key_of, wanted.objects):
        if key not in found and (other := await client.get(key)) is not None:
            found[key] = other
    return found


def _of_resource(key: ObjectKey, before: Manifest | None, after: Manifest) -> Change:
    if before is None:
        return Change(key, "create", manifest=_as_written(after))
    found = merged(_as_written(before), _as_written(after))
    return Change(key, "change" if found else "keep", found)


async def _complete(client: Client, action: Apply) -> Manifest | None:
    """What is applied with the API server's defaults, from a dry run under another name; None where that is not allowed or refused."""
    metadata = {name: value for name, value in action.manifest["metadata"].items() if name != "uid"}
    try:
        return await client.create(
            {**action.manifest, "metadata": {**metadata, "name": f"{action.key.name}-plan"}}, action.key.kind, dry_run=True
        )
    except ApiFailed as error:
        if not error.of_the_object and not error.conflict:
            raise
        return None


def _of_owned(
    wanted: Desired, ahead: Plan, observed: Mapping[ObjectKey, Manifest], changed: Mapping[ObjectKey, tuple[Difference, ...]]
) -> tuple[Change, ...]:
    """In the order of applying, what goes last."""
    actions = {action.key: action for action in allowed(ahead)}
    found: list[Change] = []
    for manifest in wanted.objects:
        key = key_of(manifest)
        action = actions.get(key)
        if key in ahead.conflicts:
            found.append(Change(key, "conflict"))
        elif isinstance(action, Create):
            found.append(Change(key, "create", manifest=action.manifest))
        elif isinstance(action, Apply):
            found.append(Change(key, "change", changed[key]))
        elif key not in observed or "deletionTimestamp" in observed[key]["metadata"]:
            found.append(Change(key, "wait", manifest=manifest))
        else:
            found.append(Change(key, "keep"))
    return (*found, *(Change(key, "delete") for key, action in actions.items() if isinstance(action, Delete)))


def _troubles(wanted: Desired, ahead: Plan) -> tuple[Trouble, ...]:
    return (*map(name_conflict, ahead.conflicts), *map(kind_missing, wanted.missing))
