"""Events that a person can act on: written when a condition of a resource changes, and only then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dtesn_api import names
from dtesn_api.status import Condition
from dtesn_operator.batcher import Batcher
from dtesn_operator.client import Client, path_of
from dtesn_operator.errors import OperatorError
from dtesn_operator.kinds import EVENT

log = logging.getLogger(__name__)

_TOLD = {Condition.READY: "True", Condition.DEGRADED: "False"}  # the condition's good state
MOST_NOTE = 1024


def told(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(type, reason, sentence) of each change worth an Event: Ready reached or lost, Degraded with a new reason or sentence, or over."""
    known = {one["type"]: one for one in before.get("conditions") or ()}
    found = []
    for one in after.get("conditions") or ():
        good = _TOLD.get(one["type"])
        was = known.get(one["type"])
        if good is None or (was is None and one["status"] != "True"):
            continue
        new = was is None or was["status"] != one["status"] or (one["status"] != good and was["message"] != one["message"])
        if new and not (one["type"] == Condition.READY and was is not None and was["status"] == one["status"]):
            found.append(("Normal" if one["status"] == good else "Warning", one["reason"], one["message"]))
    return found


@dataclass
class Recorder:
    """Writes Events of resources. One that cannot be written is logged: nothing depends on it."""

    client: Client
    instance: str
    wall: Callable[[], str]

    async def transitions(self, batcher: Batcher, after: Mapping[str, Any]) -> None:
        """Write what changed between the resource's status and the one after."""
        for kind, reason, sentence in told(batcher.status, after):
            try:
                await self.client.call("POST", path_of(EVENT, batcher.namespace), self._event(batcher, kind, reason, sentence))
            except OperatorError as error:
                log.warning("event of %s/%s not written: %s", batcher.namespace, batcher.name, error)

    def _event(self, batcher: Batcher, kind: str, reason: str, sentence: str) -> dict[str, Any]:
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"generateName": f"{batcher.name}-", "namespace": batcher.namespace},
            "eventTime": self.wall(),
            "type": kind,
            "reason": reason,
            "note": sentence[:MOST_NOTE],
            "action": "Reconcile",
            "reportingController": f"{names.GROUP}/{names.FIELD_MANAGER}",
            "reportingInstance": self.instance,
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": batcher.name,
                "namespace": batcher.namespace,
                "uid": batcher.uid,
            },
        }
