"""One reconcile of one resource: observe, gate, apply, status. Level-triggered: it does not matter which event led here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dtesn_api.problems import SpecInvalid
from dtesn_api.status import Reason
from dtesn_operator import following, observe, silent, status
from dtesn_operator.apply import Outcome, carry_out, kind_missing, name_conflict, template_trouble
from dtesn_operator.batcher import Batcher, stored, unread
from dtesn_operator.client import Client
from dtesn_operator.desired import Cluster, Desired, desired
from dtesn_operator.errors import ApiFailed
from dtesn_operator.events import Recorder, Told, told
from dtesn_operator.kinds import CONFIG_MAP, DEPLOYMENT, DTESN_BATCHER, Manifest, ObjectKey
from dtesn_operator.observe import Reading
from dtesn_operator.plan import Action, Apply, Create, Plan, allowed, opening, plan
from dtesn_operator.pods import Pod, pods_of
from dtesn_operator.silent import Silence, Turns
from dtesn_operator.status import Trouble, View
from dtesn_operator.store import Key, Store
from dtesn_operator.visits import Visits

log = logging.getLogger(__name__)

STALE_RETRY: Final = 0.2
WAIT_RETRY: Final = 1.0
FIRST_STATUS: Final = 1.0  # seconds in which a new resource may become ready, so that one status says it all


@dataclass(frozen=True, slots=True)
class Next:
    """When to look again if nothing happens before: after so many seconds, or, where something is wrong, with growing delays."""

    after: float | None = None
    troubled: bool = False


@dataclass(slots=True)
class Memory:
    """What is remembered of a resource between its reconciles; all of it can be found out anew."""

    batcher: Batcher | None = None  # as it was read last
    pods: following.Memory = field(default_factory=following.Memory)
    settled: dict[ObjectKey, tuple[str, str]] = field(default_factory=dict)
    reading: Reading | None = None
    observed_at: float | None = None
    looked: tuple[int, Cluster] | None = None  # what a reconcile saw that found nothing to do
    held: float | None = None  # since when its first status is held back
    sidecarless: tuple[str, ...] = ()  # pods that asked for the sidecar and started without
    silence: Silence = field(default_factory=Silence)


@dataclass
class Reconciler:
    """What a reconcile works with. `clock` is monotonic seconds, `wall` the text of the time now."""

    client: Client
    store: Store
    cluster: Cluster
    visits: Visits
    recorder: Recorder
    clock: Callable[[], float]
    wall: Callable[[], str]
    memories: dict[str, Memory] = field(default_factory=dict)  # by UID
    turns: Turns = field(default_factory=Turns)

    def memory(self, key: Key) -> Memory | None:
        """What is remembered of a resource, if it was reconciled before."""
        return self.memories.get(self.store.uid(ObjectKey(DTESN_BATCHER, key.namespace, key.name)))

    def in_order(self, key: Key) -> bool:
        """Whether nothing has changed since a reconcile found nothing to do."""
        memory = self.memory(key)
        return memory is not None and memory.looked == (self.store.changed_at(key), self.cluster)

    async def reconcile(self, key: Key) -> Next:
        """Bring one resource up to date. Raises `ApiFailed`, `ApiUnreachable` and `LeadershipLost`, after which it is tried again."""
        seen = self.store.changed_at(key), self.cluster
        then = await self._reconcile(key)
        memory = self.memory(key)
        if memory is not None:
            memory.looked = seen if then == Next() else None
        return then

    async def _reconcile(self, key: Key) -> Next:
        manifest = self.store.resource(key)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            if manifest is not None:
                self.memories.pop(manifest["metadata"]["uid"], None)
            return Next()  # what it owns is the garbage collector's
        memory = self.memories.setdefault(manifest["metadata"]["uid"], Memory())
        workload = self.store.get(ObjectKey(DEPLOYMENT, key.namespace, key.name))
        try:
            batcher = memory.batcher = stored(manifest, memory.batcher)
            wanted = desired(batcher, self.cluster, workload)
        except SpecInvalid as error:
            return await self._hold(manifest, memory, key, _invalid(error))
        if batcher.spec.paused:
            view = View(workload, batcher.spec.replicas, wanted.image, _hash_before(batcher), paused=True)
            await self._write(batcher, memory, view)
            return Next()
        ahead = plan(batcher.uid, wanted.objects, self.store.owned(key), memory.settled)
        if batcher.status and any(isinstance(action, Create) for action in ahead.actions) and not await self._alive(manifest):
            return Next(STALE_RETRY if self.store.resource(key) is not None else None)
        if batcher.spec.template is not None and (trouble := await template_trouble(self.client, ahead)) is not None:
            return await self._hold(manifest, memory, key, trouble)
        return await self._follow(key, batcher, wanted, ahead, memory)

    async def _alive(self, manifest: Manifest) -> bool:
        """Whether the resource is still there, asked before what it owned is made anew: its end may be why that is gone."""
        metadata = manifest["metadata"]
        found = await self.client.get(ObjectKey(DTESN_BATCHER, metadata["namespace"], metadata["name"]))
        if found is not None and found["metadata"]["uid"] == metadata["uid"]:
            return True
        self.memories.pop(metadata["uid"], None)
        self.store.gone(manifest)
        if found is not None:
            self.store.seen(found)
        return False

    async def _follow(self, key: Key, batcher: Batcher, wanted: Desired, ahead: Plan, memory: Memory) -> Next:
        repaired = _repaired(batcher, ahead.actions)
        actions = allowed(ahead)
        first = actions if batcher.status else opening(actions)
        outcome = await carry_out(self.client, first, batcher.uid, self.store)
        memory.settled |= outcome.settled
        if len(first) < len(actions):
            if not (outcome.troubles or outcome.stale):
                return Next(0.0)
            outcome = await carry_out(self.client, actions[len(first) :], batcher.uid, self.store, outcome)
            memory.settled |= outcome.settled
        workload = self.store.get(ObjectKey(DEPLOYMENT, key.namespace, key.name))
        pods = pods_of(self.store.pods(key))
        step = await self._settings(key, batcher, wanted, pods, memory)
        troubles = _troubles(ahead, outcome, wanted, workload)
        troubles += await self._pod_troubles(batcher, pods, memory)
        if memory.sidecarless:
            words = f"started without the sidecar that they ask for: {', '.join(memory.sidecarless[:3])}; delete them to try again"
            troubles.append(Trouble(Reason.INJECTION_MISSED, f"{len(memory.sidecarless)} pods {words}"))
        view = View(workload, batcher.spec.replicas, wanted.image, wanted.config_hash, troubles, len(step.behind))
        status_due = await self._write(batcher, memory, view, repaired)
        if outcome.stale or (ahead.waits and not troubles):
            return Next(STALE_RETRY if outcome.stale else WAIT_RETRY)
        silent_until = None if memory.silence.due is None else max(0.05, memory.silence.due - self.clock())
        looks = [at for at in (step.again, status_due, silent_until) if at is not None]
        return Next(min(looks, default=None), troubled=bool(troubles))

    async def _settings(self, key: Key, batcher: Batcher, wanted: Desired, pods: Sequence[Pod], memory: Memory) -> following.Step:
        """See to it that the pods have the live settings."""
        now = self.clock()
        first = not memory.pods.config_hash
        trusted = pods if first and status.confirmed(batcher, wanted.config_hash) else ()
        following.begin(memory.pods, wanted.config_hash, now, trusted)
        written = following.written_at(self.store.get(ObjectKey(CONFIG_MAP, key.namespace, key.name)))
        step = following.step(memory.pods, pods, written, now)
        for pod, times in step.tell:
            await self.visits.tell(batcher.namespace, pod, wanted.config_hash, times)
        for pod, said in (await self.visits.config_hashes(step.ask, batcher.spec.sidecar.port)).items():
            following.heard(memory.pods, pod, said)
        return following.step(memory.pods, pods, written, self.clock()) if step.ask else step

    async def _pod_troubles(self, batcher: Batcher, pods: Sequence[Pod], memory: Memory) -> list[Trouble]:
        """What keeps pods from being ready; where they do not say it themselves, their events do (a Secret or a volume is missing)."""
        said = [f"pod {pod.name}: {pod.trouble}" for pod in pods if pod.trouble and not pod.ready]
        dumb = [pod for pod in pods if not pod.ready and not pod.trouble]
        if not dumb:
            silent.over(memory.silence)
        elif silent.ask(memory.silence, self.turns, self.clock()):
            memory.silence.answer = await self.visits.warning(batcher.namespace, dumb[0])
        said += [memory.silence.answer] if memory.silence.answer else []
        return [Trouble(Reason.PODS_FAILING, sentence) for sentence in said[:3]]

    async def _hold(self, manifest: Manifest, memory: Memory, key: Key, trouble: Trouble) -> Next:
        """Say what is wrong with the spec. The last good objects stay as they are."""
        batcher = unread(manifest)
        workload = self.store.get(ObjectKey(DEPLOYMENT, key.namespace, key.name))
        image = str(batcher.status.get("image") or "")
        replicas = (manifest.get("spec") or {}).get("replicas", 1)
        view = View(workload, replicas if isinstance(replicas, int) else 1, image, _hash_before(batcher), [trouble])
        await self._write(batcher, memory, view)
        return Next(troubled=trouble.reason == Reason.TEMPLATE_INVALID)

    async def _write(self, batcher: Batcher, memory: Memory, view: View, repaired: Sequence[Told] = ()) -> float | None:
        """Write the status if it says something new, and tell what changed as Events. In how many seconds it is due if not yet."""
        before, now = status.observed_before(batcher), self.clock()
        observed = before
        if memory.reading is not None:
            memory.observed_at = now if memory.observed_at is None else memory.observed_at
            observed = observe.kept(before, observe.observed_of(memory.reading.bodies), now - memory.observed_at)
        full = View(
            view.deployment,
            view.replicas,
            view.image,
            view.config_hash,
            view.troubles,
            view.behind,
            memory.reading,
            observed,
            view.paused,
        )
        wanted = status.status_of(batcher, full, self.wall())
        if not batcher.status and status.only_begun(wanted):
            memory.held = now if memory.held is None else memory.held
            if now < memory.held + FIRST_STATUS:
                return memory.held + FIRST_STATUS - now
        patch = status.changed(batcher.status, wanted)
        if patch is not None and not await self._patch(batcher, patch):
            return None
        if observed != before:
            memory.observed_at = now
        await self.recorder.tell(batcher, [*repaired, *told(batcher.status, wanted)])
        return None

    async def _patch(self, batcher: Batcher, patch: dict[str, Any]) -> bool:
        key = ObjectKey(DTESN_BATCHER, batcher.namespace, batcher.name)
        try:
            self.store.seen(await self.client.merge(key, {"metadata": {"uid": batcher.uid}, "status": patch}, subresource="status"))
        except ApiFailed as error:
            if error.status not in (404, 409):  # deleted, or deleted and made anew
                raise
            return False
        return True


def _invalid(error: SpecInvalid) -> Trouble:
    of_template = all(one.field.startswith("spec.template") for one in error.problems)
    return Trouble(Reason.TEMPLATE_INVALID if of_template else Reason.SPEC_INVALID, "; ".join(one.message for one in error.problems))


def _hash_before(batcher: Batcher) -> str:
    return str(batcher.status.get("configHash") or "")


def _repaired(batcher: Batcher, actions: Sequence[Action]) -> list[Told]:
    """Events of what somebody else changed or deleted: the resource itself is as it was when its status was written."""
    if batcher.status.get("observedGeneration") != batcher.generation:
        return []
    done = [
        f"the {action.key.kind.kind} {action.key.name} was {'deleted' if isinstance(action, Create) else 'changed'}"
        for action in actions
        if (isinstance(action, Create) and not action.key.kind.optional) or (isinstance(action, Apply) and action.drift)
    ]
    return [("Normal", "Repaired", f"{', '.join(done)}, and is as before; change the DTESNBatcher instead")] if done else []


def _troubles(ahead: Plan, outcome: Outcome, wanted: Desired, workload: Manifest | None) -> list[Trouble]:
    troubles = [name_conflict(conflict) for conflict in ahead.conflicts] + outcome.troubles
    troubles += [kind_missing(kind) for kind in wanted.missing]
    conditions = ((workload or {}).get("status") or {}).get("conditions") or ()
    troubles += [
        Trouble(Reason.REPLICA_FAILURE, f"pods are refused: {one.get('message', '')}")
        for one in conditions
        if one["type"] == "ReplicaFailure" and one["status"] == "True"
    ]
    return troubles
