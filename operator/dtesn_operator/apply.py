"""Carries out a plan: creates, applies and deletes, and says what stood in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from dtesn_api.status import Reason
from dtesn_operator.client import Client
from dtesn_operator.errors import ApiFailed
from dtesn_operator.kinds import DEPLOYMENT, Manifest, ObjectKey
from dtesn_operator.plan import Action, Apply, Create, Delete, controller_uid
from dtesn_operator.status import Trouble

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What was written, what was refused, and whether the observed state was out of date so that it must be looked at anew."""

    written: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    stale: bool = False


async def carry_out(
    client: Client, actions: Sequence[Action], owner_uid: str, seen: Callable[[Manifest], object], *, with_template: bool
) -> Outcome:
    """Each action in order. What is refused for what it says becomes a trouble and the next one follows; other failures are raised.

    `seen` is told each object as the API server has it now.
    """
    outcome = Outcome()
    for action in actions:
        try:
            await _one(client, action, owner_uid, seen, outcome)
        except ApiFailed as error:
            if error.status == 404 and isinstance(action, Delete | Apply):
                outcome.stale = outcome.stale or isinstance(action, Apply)
            elif error.conflict and not isinstance(action, Create):
                outcome.stale = True  # replaced meanwhile: its UID is another's
            elif error.of_the_object:
                outcome.troubles.append(_refused(action.key, error, with_template=with_template))
            else:
                raise
    return outcome


async def _one(client: Client, action: Action, owner_uid: str, seen: Callable[[Manifest], object], outcome: Outcome) -> None:
    match action:
        case Create(key, manifest):
            try:
                seen(await client.create(manifest, key.kind))
            except ApiFailed as error:
                if not error.conflict or error.reason != "AlreadyExists":
                    raise
                await _exists(client, key, owner_uid, seen, outcome)
                return
        case Apply(key, manifest):
            seen(await client.apply(manifest, key.kind))
        case Delete(key, uid):
            await client.delete(key, uid)
        case _ as never:
            assert_never(never)
    outcome.written += 1
    log.debug("%s %s %s/%s", type(action).__name__.lower(), key.kind.kind, key.namespace, key.name)


async def _exists(client: Client, key: ObjectKey, owner_uid: str, seen: Callable[[Manifest], object], outcome: Outcome) -> None:
    """One of that name is there already: our own that was not seen yet, or somebody else's, which is left alone."""
    found = await client.get(key)
    if found is None:
        outcome.stale = True
    elif controller_uid(found) == owner_uid:
        seen(found)
        outcome.stale = True
    else:
        outcome.troubles.append(name_conflict(key))


def name_conflict(key: ObjectKey) -> Trouble:
    """The trouble of a name that is taken."""
    words = (
        f"the {key.kind.kind} {key.name} exists and is not this resource's; it is left alone: delete or rename it, or rename the resource"
    )
    return Trouble(Reason.NAME_CONFLICT, words)


def _refused(key: ObjectKey, error: ApiFailed, *, with_template: bool) -> Trouble:
    if key.kind == DEPLOYMENT and with_template and error.status in (400, 422, 500):
        return Trouble(Reason.TEMPLATE_INVALID, f"spec.template makes no valid pod template: {error.said}")
    return Trouble(Reason.OBJECT_REFUSED, f"the API server refused the {key.kind.kind} {key.name}: {error.said}")
