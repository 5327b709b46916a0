"""The status of a resource, from what was observed. Pure; `now` is passed in, as the text of a time (RFC 3339)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dtesn_api.schema import to_wire
from dtesn_api.status import Condition, DTESNBatcherStatus, Observed, Reason, StatusCondition
from dtesn_operator.batcher import Batcher
from dtesn_operator.observe import Reading
from dtesn_operator.resources.metadata import selector
from dtesn_operator.resources.service import url

MOST_WORDS: Final = 1024
_REASONS: Final = frozenset(reason.value for reason in Reason)
Truth = Literal["True", "False", "Unknown"]
Verdict = tuple[Condition, Truth, Reason, str]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person must know, and perhaps change."""

    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class View:
    """What a status is made of.

    `replicas`: those wanted. `behind`: ready pods that have not reported the present settings. `reading`: what the pods said
    last, None where they were not asked yet; what is known from before is then kept. `observed`: the figures to show.
    """

    deployment: Mapping[str, Any] | None
    replicas: int
    image: str
    config_hash: str
    troubles: Sequence[Trouble] = ()
    behind: int = 0
    reading: Reading | None = None
    observed: Observed | None = None
    paused: bool = False


def status_of(batcher: Batcher, view: View, now: str) -> dict[str, Any]:
    """The status."""
    deployed = (view.deployment or {}).get("status") or {}
    verdicts = (_ready(batcher, view), _progressing(view), _degraded(view.troubles), _load(batcher, view), _paused(view))
    found = DTESNBatcherStatus(
        observed_generation=batcher.generation,
        conditions=tuple(_dated(batcher, verdict, now) for verdict in verdicts),
        replicas=deployed.get("replicas", 0),
        ready_replicas=deployed.get("readyReplicas", 0),
        selector=",".join(f"{key}={value}" for key, value in sorted(selector(batcher.name).items())),
        url=url(batcher),
        image=view.image,
        config_hash=view.config_hash,
        observed=view.observed,
    )
    return to_wire(found)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """The merge patch from one status to the other, or None where they say the same."""
    patch = {key: _patch(before.get(key), value) for key, value in after.items() if before.get(key) != value}
    patch |= {key: None for key in before if key not in after}
    return patch or None


def _patch(before: Any, after: Any) -> Any:
    """A merge patch merges objects, so what is no longer in one is named."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return {**{key: None for key in before if key not in after}, **after}
    return after


def observed_before(batcher: Batcher) -> Observed | None:
    """The figures that the status has."""
    before = batcher.status.get("observed")
    if not before:
        return None
    return Observed(
        load=before.get("load"),
        batch_size=before.get("batchSize"),
        requests_per_second=before.get("requestsPerSecond"),
        throughput_improvement=before.get("throughputImprovement"),
        pending=before.get("pending"),
    )


def confirmed(batcher: Batcher, config_hash: str) -> bool:
    """Whether all pods were seen to have these settings when the status was written."""
    before = before_of(batcher.status, Condition.PROGRESSING)
    return batcher.status.get("configHash") == config_hash and before.get("status") == "False"


def before_of(status: Mapping[str, Any], kind: Condition) -> Mapping[str, Any]:
    """A condition as a status has it; empty where it has none."""
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def only_begun(status: Mapping[str, Any]) -> bool:
    """Whether a status says no more than that the pods are on their way."""
    return all(before_of(status, kind).get("status") == "False" for kind in (Condition.READY, Condition.DEGRADED, Condition.PAUSED))


def _ready(batcher: Batcher, view: View) -> Verdict:
    """From the Deployment alone: enough pods of its present template are available."""
    status = (view.deployment or {}).get("status") or {}
    current = view.deployment is not None and status.get("observedGeneration", 0) >= view.deployment["metadata"].get("generation", 0)
    available = min(status.get("availableReplicas", 0), status.get("updatedReplicas", 0)) if current else 0
    words = f"{available} of {view.replicas} pods of this generation are available"
    if view.replicas == 0 and batcher.spec.autoscaling.enabled and batcher.spec.autoscaling.min_replicas > 0:
        words += "; autoscaling is suspended while spec.replicas is 0"
    if current and available >= view.replicas:
        return Condition.READY, "True", Reason.AVAILABLE, words
    return Condition.READY, "False", Reason.TOO_FEW_REPLICAS, words


def _progressing(view: View) -> Verdict:
    if view.deployment is None:
        return Condition.PROGRESSING, "True", Reason.ROLLOUT_IN_PROGRESS, "there is no Deployment yet"
    status, generation = view.deployment.get("status") or {}, view.deployment["metadata"].get("generation", 0)
    replicas, updated, available = (status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas"))
    if status.get("observedGeneration", 0) < generation or not replicas == updated == available == view.replicas:
        words = f"{updated} of {view.replicas} pods have the present template, {available} are available, {replicas} exist"
        return Condition.PROGRESSING, "True", Reason.ROLLOUT_IN_PROGRESS, words
    if view.behind:
        words = f"{view.behind} of {view.replicas} ready pods have not reported the present settings yet"
        return Condition.PROGRESSING, "True", Reason.CONFIG_IN_PROGRESS, words
    return Condition.PROGRESSING, "False", Reason.UP_TO_DATE, "every pod has the present template and settings"


def _degraded(troubles: Sequence[Trouble]) -> Verdict:
    if not troubles:
        return Condition.DEGRADED, "False", Reason.AS_EXPECTED, "nothing is wrong"
    return Condition.DEGRADED, "True", troubles[0].reason, "; ".join(dict.fromkeys(one.sentence for one in troubles))


def _load(batcher: Batcher, view: View) -> Verdict:
    reading = view.reading
    if reading is None:
        before = before_of(batcher.status, Condition.LOAD_AVAILABLE)
        if before and before["reason"] in _REASONS:
            return Condition.LOAD_AVAILABLE, before["status"], Reason(before["reason"]), before["message"]
        return Condition.LOAD_AVAILABLE, "Unknown", Reason.PODS_SILENT, "no pod was asked yet"
    if not reading.bodies:
        words = f"none of {reading.asked} ready pods answered" if reading.asked else "no pod is ready"
        return Condition.LOAD_AVAILABLE, "Unknown", Reason.PODS_SILENT, words
    if reading.fresh:
        return Condition.LOAD_AVAILABLE, "True", Reason.FRESH_READING, "the pods have a fresh reading of their load"
    return Condition.LOAD_AVAILABLE, "False", Reason.NO_DATA, "no source of load has data in any pod; GET /dtesn/batch_metrics says why"


def _paused(view: View) -> Verdict:
    if view.paused:
        return Condition.PAUSED, "True", Reason.PAUSED, "spec.paused is true: nothing that the resource owns is touched"
    return Condition.PAUSED, "False", Reason.ACTIVE, "the resource is followed"


def _dated(batcher: Batcher, verdict: Verdict, now: str) -> StatusCondition:
    kind, status, reason, message = verdict
    before = before_of(batcher.status, kind)
    since = before.get("lastTransitionTime", now) if before.get("status") == status else now
    return StatusCondition(
        type=kind,
        status=status,
        reason=reason,
        message=message if len(message) <= MOST_WORDS else f"{message[: MOST_WORDS - 3]}...",
        last_transition_time=since,
        observed_generation=batcher.generation,
    )
