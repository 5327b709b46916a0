"""One reconcile of one resource: observe, gate, apply, status. Level-triggered: it does not matter which event led here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dtesn_api import names
from dtesn_api.problems import SpecInvalid
from dtesn_api.status import Reason
from dtesn_operator import status
from dtesn_operator.apply import carry_out, name_conflict
from dtesn_operator.batcher import Batcher, batcher_of, unread
from dtesn_operator.client import Client
from dtesn_operator.desired import Cluster, Desired, desired
from dtesn_operator.errors import ApiFailed
from dtesn_operator.events import Recorder
from dtesn_operator.kinds import DEPLOYMENT, DTESN_BATCHER, POD, Manifest, ObjectKey
from dtesn_operator.plan import plan
from dtesn_operator.pods import Pod, pods_of
from dtesn_operator.probe import Probe, Spoken
from dtesn_operator.resources.metadata import selector
from dtesn_operator.status import Trouble, View
from dtesn_operator.store import Key, Store

log = logging.getLogger(__name__)

CONFLICT_RETRY: Final = 30.0
TROUBLE_RETRY: Final = 15.0
ASK_FIRST: Final = 1.0
ASK_MOST: Final = 300.0
OBSERVE_EVERY: Final = 300.0


@dataclass(slots=True)
class Asking:
    """When a resource's pods are asked next, and how long to wait after that."""

    at: float = 0.0
    delay: float = ASK_FIRST
    config_hash: str = ""


@dataclass
class Reconciler:
    """What a reconcile works with. `clock` is monotonic seconds, `wall` the text of the time now."""

    client: Client
    store: Store
    cluster: Cluster
    probe: Probe
    recorder: Recorder
    clock: Callable[[], float]
    wall: Callable[[], str]
    _asking: dict[Key, Asking] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Bring one resource up to date; seconds until it must be looked at again, if nothing happens before.

        Raises `ApiFailed` and `ApiUnreachable`, after which it is tried again.
        """
        manifest = self.store.resource(key)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            self._asking.pop(key, None)
            return None  # what it owns is the garbage collector's
        try:
            batcher = batcher_of(manifest)
            if batcher.spec.paused:
                await self._write(batcher, status.paused(batcher, self.wall()))
                return None
            workload = self.store.get(ObjectKey(DEPLOYMENT, key.namespace, key.name))
            wanted = desired(batcher, self.cluster, workload)
        except SpecInvalid as error:
            await self._refuse(manifest, error)
            return None
        return await self._follow(key, batcher, wanted)

    async def _follow(self, key: Key, batcher: Batcher, wanted: Desired) -> float | None:
        ahead = plan(batcher.uid, wanted.objects, self.store.owned(key))
        outcome = await carry_out(self.client, ahead.actions, batcher.uid, self.store.seen, with_template=batcher.spec.template is not None)
        troubles = [name_conflict(conflict) for conflict in ahead.conflicts] + outcome.troubles
        troubles += [
            Trouble(Reason.KIND_MISSING, f"the cluster has no {kind.kind} ({kind.group}), which the resource asks for")
            for kind in wanted.missing
        ]
        workload = self.store.get(ObjectKey(DEPLOYMENT, key.namespace, key.name))
        troubles += _replica_failure(workload)
        pods, spoken = await self._pods(key, batcher, wanted, workload)
        if pods is not None:
            troubles += [Trouble(Reason.PODS_FAILING, f"pod {pod.name}: {pod.trouble}") for pod in pods if pod.trouble][:3]
        view = View(workload, wanted.image, wanted.config_hash, troubles, pods, spoken)
        await self._write(batcher, status.status_of(batcher, view, self.wall()))
        if outcome.stale or ahead.waits:
            return ASK_FIRST
        delays = [CONFLICT_RETRY] if ahead.conflicts else []
        delays += [TROUBLE_RETRY] if troubles else []
        if key in self._asking:
            delays.append(max(0.1, self._asking[key].at - self.clock()))
        return min(delays, default=None)

    async def _pods(
        self, key: Key, batcher: Batcher, wanted: Desired, workload: Manifest | None
    ) -> tuple[list[Pod] | None, dict[str, Spoken]]:
        """The pods and what they say, where it is time to ask: at once after a change of the settings, then at growing distances."""
        asking = self._asking.setdefault(key, Asking())
        now = self.clock()
        available = ((workload or {}).get("status") or {}).get("availableReplicas", 0)
        if asking.config_hash != wanted.config_hash:
            self._asking[key] = asking = Asking(now, ASK_FIRST, wanted.config_hash)
        if now < asking.at or workload is None:
            return None, {}
        pods = await self._list(batcher)
        ready = [pod for pod in pods if pod.ready and pod.ip]
        for pod in pods:
            if pod.told != wanted.config_hash:
                await self._tell(batcher, pod, wanted.config_hash)
        spoken = await self.probe.ask(ready, batcher.spec.sidecar.port)
        settled = len(ready) >= batcher.spec.replicas and all(one.config_hash == wanted.config_hash for one in spoken.values())
        asking.delay = OBSERVE_EVERY if settled or not available else min(ASK_MOST, asking.delay * 2)
        asking.at = self.clock() + asking.delay
        return pods, spoken

    async def _list(self, batcher: Batcher) -> list[Pod]:
        labels = ",".join(f"{name}={value}" for name, value in selector(batcher.name).items())
        return pods_of([pod async for pod in self.client.list(POD, batcher.namespace, labels=labels)])

    async def _tell(self, batcher: Batcher, pod: Pod, config_hash: str) -> None:
        """Annotate the pod, upon which the kubelet brings its mounted files up to date at once."""
        patch = {"metadata": {"uid": pod.uid, "annotations": {names.ANNOTATION_CONFIG_HASH: config_hash}}}
        try:
            await self.client.merge(ObjectKey(POD, batcher.namespace, pod.name), patch)
        except ApiFailed as error:
            if error.status not in (404, 409):  # it has ended meanwhile
                raise

    async def _refuse(self, manifest: Manifest, error: SpecInvalid) -> None:
        """Say what is wrong with the spec. The last good objects stay as they are."""
        of_template = all(one.field.startswith("spec.template") for one in error.problems)
        trouble = Trouble(Reason.TEMPLATE_INVALID if of_template else Reason.SPEC_INVALID, "; ".join(one.message for one in error.problems))
        batcher = unread(manifest)
        await self._write(batcher, status.invalid(batcher, trouble, self.wall()))

    async def _write(self, batcher: Batcher, wanted: dict[str, Any]) -> None:
        """Write the status if it says something new, and tell what changed as Events."""
        patch = status.changed(batcher.status, wanted)
        if patch is None:
            return
        key = ObjectKey(DTESN_BATCHER, batcher.namespace, batcher.name)
        try:
            self.store.seen(await self.client.merge(key, {"metadata": {"uid": batcher.uid}, "status": patch}, subresource="status"))
        except ApiFailed as error:
            if error.status not in (404, 409):  # deleted, or deleted and made anew
                raise
            return
        await self.recorder.transitions(batcher, wanted)


def _replica_failure(workload: Manifest | None) -> list[Trouble]:
    """What the Deployment says of pods that it may not make: Pod Security, a quota, a webhook, a runtime class."""
    conditions = ((workload or {}).get("status") or {}).get("conditions") or ()
    return [
        Trouble(Reason.REPLICA_FAILURE, f"pods are refused: {one.get('message', '')}")
        for one in conditions
        if one["type"] == "ReplicaFailure" and one["status"] == "True"
    ]
