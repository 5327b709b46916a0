"""Carries out a plan: creates, applies and deletes, and says what stood in the way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from dtesn_api import names
from dtesn_api.status import Reason
from dtesn_operator.client import Client
from dtesn_operator.errors import ApiFailed
from dtesn_operator.kinds import DEPLOYMENT, Kind, Manifest, ObjectKey
from dtesn_operator.plan import Action, Apply, Create, Delete, Plan, applied, controller_uid, differs, on_record, revision
from dtesn_operator.status import Trouble
from dtesn_operator.store import Store

log = logging.getLogger(__name__)

UNPROCESSABLE: Final = 422


@dataclass
class Outcome:
    """What was written and refused, what the API server keeps otherwise than applied, and whether the observed state was out of date."""

    written: list[Action] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    settled: dict[ObjectKey, tuple[str, str]] = field(default_factory=dict)
    stale: bool = False


async def carry_out(client: Client, actions: Sequence[Action], owner_uid: str, store: Store, outcome: Outcome | None = None) -> Outcome:
    """Each action in order. What is refused for what it says becomes a trouble and the next one follows; other failures are raised.

    `store` takes in each object as the API server has it now. `outcome`: that of actions before these, which is gone on with.
    """
    outcome = outcome or Outcome()
    for action in actions:
        try:
            await _one(client, action, owner_uid, store, outcome)
        except ApiFailed as error:
            if error.status == 404 and isinstance(action, Delete | Apply):
                outcome.stale = outcome.stale or isinstance(action, Apply)
            elif error.conflict and not isinstance(action, Create):
                outcome.stale = True  # replaced meanwhile: its UID is another's
            elif error.of_the_object:
                outcome.troubles.append(refused(action.key, error))
            else:
                raise
    return outcome


async def _one(client: Client, action: Action, owner_uid: str, store: Store, outcome: Outcome) -> None:
    match action:
        case Create(key, manifest):
            try:
                made = await client.create(manifest, key.kind)
            except ApiFailed as error:
                if not error.conflict or error.reason != "AlreadyExists":
                    raise
                await _exists(client, key, owner_uid, store, outcome)
                return
            _taken_in(key, manifest, made, store, outcome)
        case Apply(key, manifest, created):
            _taken_in(key, manifest, await _apply(client, key, manifest, created=created), store, outcome)
        case Delete(key, uid):
            await client.delete(key, uid)
        case _ as never:
            assert_never(never)
    outcome.written.append(action)
    log.debug("%s %s %s/%s", type(action).__name__.lower(), key.kind.kind, key.namespace, key.name)


def _taken_in(key: ObjectKey, manifest: Manifest, found: Manifest, store: Store, outcome: Outcome) -> None:
    store.seen(found)
    if differs(manifest, found):
        outcome.settled[key] = (applied(manifest), revision(found))


async def _apply(client: Client, key: ObjectKey, manifest: Manifest, *, created: bool) -> Manifest:
    """Apply it. Where a list that is merged by key cannot hold both our entry and the one that stands there, it is replaced first."""
    if created:
        await _hand_over(client, key, manifest["metadata"]["uid"])
    try:
        return await client.apply(manifest, key.kind)
    except ApiFailed as error:
        if error.status != UNPROCESSABLE:
            raise
        fields = {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind", "metadata")}
        await client.merge(key, {**fields, "metadata": {"uid": manifest["metadata"]["uid"]}})
        await _hand_over(client, key, manifest["metadata"]["uid"])
        return await client.apply(manifest, key.kind)


async def _hand_over(client: Client, key: ObjectKey, uid: str) -> None:
    """Put the fields that we set by POST or patch on record as applied, so that the next apply removes those it no longer has."""
    found = await client.get(key)
    if found is None or found["metadata"]["uid"] != uid or not on_record(found):
        return
    entries = found["metadata"]["managedFields"]
    ours = [entry for entry in entries if entry["manager"] == names.FIELD_MANAGER and not entry.get("subresource")]
    posted = [entry for entry in ours if entry["operation"] == "Update"]
    kept = [entry for entry in entries if entry not in posted]
    if len(posted) == len(ours):
        kept.append({**posted[0], "operation": "Apply"})
    version = {"op": "replace", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]}
    await client.patch(key, [{"op": "replace", "path": "/metadata/managedFields", "value": kept}, version])


async def _exists(client: Client, key: ObjectKey, owner_uid: str, store: Store, outcome: Outcome) -> None:
    """One of that name is there already: our own that was not seen yet, or somebody else's, which is left alone."""
    found = await client.get(key)
    if found is None:
        outcome.stale = True
    elif controller_uid(found) == owner_uid:
        store.alive(found)
        outcome.stale = True
    else:
        outcome.troubles.append(name_conflict(key))


async def template_trouble(client: Client, ahead: Plan) -> Trouble | None:
    """What is wrong with the user's pod template, asked before anything is changed."""
    for action in ahead.actions:
        if action.key.kind == DEPLOYMENT and isinstance(action, Create | Apply):
            metadata = {name: value for name, value in action.manifest["metadata"].items() if name != "uid"}
            return await tried(client, {**action.manifest, "metadata": metadata})
    return None


async def tried(client: Client, manifest: Manifest) -> Trouble | None:
    """What the API server would say of a Deployment with the user's pod template: a dry run, in which unknown fields count too."""
    try:
        await client.create(manifest, DEPLOYMENT, dry_run=True)
    except ApiFailed as error:
        if error.status in (400, UNPROCESSABLE):
            return Trouble(Reason.TEMPLATE_INVALID, f"spec.template makes no valid pod template: {error.said}")
        if not error.conflict and not error.of_the_object:
            raise
    return None


def name_conflict(key: ObjectKey) -> Trouble:
    """The trouble of a name that is taken."""
    words = (
        f"the {key.kind.kind} {key.name} exists and is not this resource's; it is left alone: delete or rename it, or rename the resource"
    )
    return Trouble(Reason.NAME_CONFLICT, words)


def kind_missing(kind: Kind) -> Trouble:
    """The trouble of an optional kind that is asked for and not installed."""
    return Trouble(Reason.KIND_MISSING, f"the cluster has no {kind.kind} ({kind.group}), which the resource asks for")


def refused(key: ObjectKey, error: ApiFailed) -> Trouble:
    """The trouble of an object that the API server does not take."""
    return Trouble(Reason.OBJECT_REFUSED, f"the API server refused the {key.kind.kind} {key.name}: {error.said}")
