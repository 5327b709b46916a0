"""Events that a person can act on: something is wrong or no longer wrong, a resource was paused, an object was put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from dtesn_api import names
from dtesn_api.status import Condition
from dtesn_operator.batcher import Batcher
from dtesn_operator.client import Client, path_of
from dtesn_operator.errors import ApiFailed, ApiUnreachable
from dtesn_operator.kinds import EVENT
from dtesn_operator.status import before_of

log = logging.getLogger(__name__)

MOST_NOTE: Final = 1024
NOT_AGAIN_FOR: Final = 60.0  # seconds, of the same reason on the same resource
Told = tuple[str, str, str]  # type, reason, sentence


def told(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Told]:
    """What of the change from one status to the other is worth an Event.

    That pods come and go is not: it is the Deployment's to tell, and every rollout does it.
    """
    found: list[Told] = []
    was, now = before_of(before, Condition.DEGRADED), before_of(after, Condition.DEGRADED)
    if now["status"] == "True" and (was.get("status"), was.get("message")) != ("True", now["message"]):
        found.append(("Warning", now["reason"], now["message"]))
    if now["status"] == "False" and was.get("status") == "True":
        found.append(("Normal", "Recovered", f"no longer {was['reason']}"))
    was, now = before_of(before, Condition.PAUSED), before_of(after, Condition.PAUSED)
    if now["status"] != was.get("status", "False"):
        found.append(("Normal", "Paused" if now["status"] == "True" else "Resumed", now["message"]))
    was, now = before_of(before, Condition.PROGRESSING), before_of(after, Condition.PROGRESSING)
    if was.get("reason") == "ConfigInProgress" and now["status"] == "False":
        found.append(("Normal", "SettingsInForce", "every ready pod has reported the present settings"))
    return found


@dataclass
class Recorder:
    """Writes Events of resources. One that cannot be written is logged: nothing depends on it."""

    client: Client
    instance: str
    wall: Callable[[], str]
    clock: Callable[[], float]
    _last: dict[tuple[str, str], float] = field(default_factory=dict)

    async def tell(self, batcher: Batcher, events: list[Told]) -> None:
        """Write these, but for those of a reason that was told a moment ago."""
        now = self.clock()
        self._last = {what: at for what, at in self._last.items() if now - at < NOT_AGAIN_FOR}
        for kind, reason, sentence in events:
            if (batcher.uid, reason) in self._last:
                continue
            self._last[batcher.uid, reason] = now
            try:
                await self.client.call("POST", path_of(EVENT, batcher.namespace), self._event(batcher, kind, reason, sentence))
            except (ApiFailed, ApiUnreachable) as error:
                log.warning("event of %s/%s not written: %s", batcher.namespace, batcher.name, error)

    def _event(self, batcher: Batcher, kind: str, reason: str, sentence: str) -> dict[str, Any]:
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{batcher.name}.{uuid4().hex[:16]}", "namespace": batcher.namespace},
            "eventTime": self.wall(),
            "type": kind,
            "reason": reason,
            "note": sentence if len(sentence) <= MOST_NOTE else f"{sentence[: MOST_NOTE - 3]}...",
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
