"""The status of a resource, from what was observed. Pure; `now` is passed in, as the text of a time (RFC 3339)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from dtesn_api.schema import to_wire
from dtesn_api.status import Condition, DTESNBatcherStatus, Observed, Reason, StatusCondition
from dtesn_operator.batcher import Batcher
from dtesn_operator.pods import Pod
from dtesn_operator.probe import Spoken
from dtesn_operator.resources.metadata import selector
from dtesn_operator.resources.service import url

MOST_WORDS = 1024


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person must know, and perhaps change."""

    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class View:
    """What a status is made of. `pods` and `spoken` are None where the pods were not looked at this time."""

    deployment: Mapping[str, Any] | None
    image: str
    config_hash: str
    troubles: Sequence[Trouble] = ()
    pods: Sequence[Pod] | None = None
    spoken: Mapping[str, Spoken] = field(default_factory=dict)


def status_of(batcher: Batcher, view: View, now: str) -> dict[str, Any]:
    """The status. What was not looked at this time is kept from the one before."""
    deployed = (view.deployment or {}).get("status") or {}
    conditions = (
        _ready(batcher, view.deployment),
        _progressing(batcher, view),
        _degraded(view.troubles),
        _load(batcher, view),
        (Condition.PAUSED, "False", Reason.ACTIVE, "the resource is followed"),
    )
    observed = _kept_observed(batcher) if view.pods is None else observed_of([one.metrics for one in view.spoken.values() if one.metrics])
    found = DTESNBatcherStatus(
        observed_generation=batcher.generation,
        conditions=tuple(_dated(batcher, condition, now) for condition in conditions),
        replicas=deployed.get("replicas", 0),
        ready_replicas=deployed.get("readyReplicas", 0),
        selector=",".join(f"{key}={value}" for key, value in sorted(selector(batcher.name).items())),
        url=url(batcher),
        image=view.image,
        config_hash=view.config_hash,
        observed=observed,
    )
    return to_wire(found)


def halted(batcher: Batcher, condition: tuple[Condition, str, Reason, str], now: str) -> dict[str, Any]:
    """The status before with one condition changed: of a resource that is paused, or whose spec cannot be followed."""
    before = [one for one in batcher.status.get("conditions") or () if one["type"] != condition[0]]
    changed = to_wire(_dated(batcher, condition, now))
    order = [kind.value for kind in Condition]
    conditions = sorted([*before, changed], key=lambda one: order.index(one["type"]) if one["type"] in order else len(order))
    return {**batcher.status, "observedGeneration": batcher.generation, "conditions": conditions}


def paused(batcher: Batcher, now: str) -> dict[str, Any]:
    """The status of a paused resource."""
    words = "spec.paused is true: nothing that the resource owns is touched"
    return halted(batcher, (Condition.PAUSED, "True", Reason.PAUSED, words), now)


def invalid(batcher: Batcher, trouble: Trouble, now: str) -> dict[str, Any]:
    """The status of a resource whose spec cannot be followed: the last good objects stay."""
    return halted(batcher, (Condition.DEGRADED, "True", trouble.reason, trouble.sentence), now)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """The merge patch from one status to the other, or None where they say the same."""
    patch = {key: value for key, value in after.items() if before.get(key) != value}
    patch |= {key: None for key in before if key not in after}
    return patch or None


def observed_of(metrics: Sequence[Mapping[str, Any]]) -> Observed | None:
    """Load and batch size as means over the pods, rate and pending as sums; two digits."""
    if not metrics:
        return None
    figures = [body.get("metrics") or {} for body in metrics]
    pending = [body["pending_requests"] for body in metrics if isinstance(body.get("pending_requests"), int)]
    rates = _numbers(figures, "requests_per_second")
    return Observed(
        load=_two_digits(_numbers(figures, "avg_server_load"), fmean),
        batch_size=_two_digits(_numbers(metrics, "current_batch_size"), fmean),
        requests_per_second=_two_digits(rates, sum),
        throughput_improvement=_two_digits(_numbers(figures, "throughput_improvement"), fmean),
        pending=sum(pending) if pending else None,
    )


def _numbers(bodies: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(body[name]) for body in bodies if isinstance(body.get(name), (int, float))]


def _two_digits(values: Sequence[float], join: Any) -> float | None:
    return float(f"{join(values):.2g}") if values else None


def _ready(batcher: Batcher, deployment: Mapping[str, Any] | None) -> tuple[Condition, str, Reason, str]:
    wanted = batcher.spec.replicas
    status = (deployment or {}).get("status") or {}
    current = deployment is not None and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    available = min(status.get("availableReplicas", 0), status.get("updatedReplicas", 0)) if current else 0
    words = f"{available} of {wanted} pods of this generation are available"
    if deployment is not None and current and available >= wanted:
        return Condition.READY, "True", Reason.AVAILABLE, words
    return Condition.READY, "False", Reason.TOO_FEW_REPLICAS, words


def _progressing(batcher: Batcher, view: View) -> tuple[Condition, str, Reason, str]:
    status = (view.deployment or {}).get("status") or {}
    generation = view.deployment["metadata"].get("generation", 0) if view.deployment is not None else 1
    wanted = batcher.spec.replicas
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    if status.get("observedGeneration", 0) < generation or counts != [wanted] * 3:
        words = f"{counts[1]} of {wanted} pods have the present template"
        return Condition.PROGRESSING, "True", Reason.ROLLOUT_IN_PROGRESS, words
    if view.pods is None and confirmed(batcher, view.config_hash):
        return Condition.PROGRESSING, "False", Reason.UP_TO_DATE, _UP_TO_DATE
    ready = [pod for pod in view.pods or () if pod.ready]
    behind = [pod.name for pod in ready if pod.name not in view.spoken or view.spoken[pod.name].config_hash != view.config_hash]
    if wanted and (view.pods is None or behind):
        words = f"{len(behind)} of {wanted} ready pods have not reported the present settings yet"
        return Condition.PROGRESSING, "True", Reason.CONFIG_IN_PROGRESS, words
    return Condition.PROGRESSING, "False", Reason.UP_TO_DATE, _UP_TO_DATE


_UP_TO_DATE = "every pod has the present template and settings"


def confirmed(batcher: Batcher, config_hash: str) -> bool:
    """Whether the pods were seen to have these settings."""
    before = _before(batcher, Condition.PROGRESSING)
    return batcher.status.get("configHash") == config_hash and before.get("status") == "False"


def _degraded(troubles: Sequence[Trouble]) -> tuple[Condition, str, Reason, str]:
    if not troubles:
        return Condition.DEGRADED, "False", Reason.AS_EXPECTED, "nothing is wrong"
    return Condition.DEGRADED, "True", troubles[0].reason, "; ".join(dict.fromkeys(one.sentence for one in troubles))


def _load(batcher: Batcher, view: View) -> tuple[Condition, str, Reason, str]:
    if view.pods is None:
        before = _before(batcher, Condition.LOAD_AVAILABLE)
        if before:
            return Condition.LOAD_AVAILABLE, before["status"], Reason(before["reason"]), before["message"]
    metrics = [one.metrics for one in view.spoken.values() if one.metrics is not None]
    if not metrics:
        return Condition.LOAD_AVAILABLE, "Unknown", Reason.PODS_SILENT, "no pod has told its load"
    fresh = [body for body in metrics if (body.get("metrics") or {}).get("avg_server_load") is not None]
    if fresh:
        return Condition.LOAD_AVAILABLE, "True", Reason.FRESH_READING, "the pods have a fresh reading of their load"
    return Condition.LOAD_AVAILABLE, "False", Reason.NO_DATA, "no source of load has data in any pod; GET /dtesn/batch_metrics says why"


def _kept_observed(batcher: Batcher) -> Observed | None:
    before = batcher.status.get("observed")
    if not before:
        return None
    names = {"load": "load", "batch_size": "batchSize", "requests_per_second": "requestsPerSecond", "pending": "pending"}
    names["throughput_improvement"] = "throughputImprovement"
    return Observed(**{name: before.get(wire) for name, wire in names.items()})


def _before(batcher: Batcher, kind: Condition) -> Mapping[str, Any]:
    return next((one for one in batcher.status.get("conditions") or () if one["type"] == kind), {})


def _dated(batcher: Batcher, condition: tuple[Condition, str, Reason, str], now: str) -> StatusCondition:
    kind, status, reason, message = condition
    before = _before(batcher, kind)
    since = before["lastTransitionTime"] if before.get("status") == status else now
    return StatusCondition(
        type=kind,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        message=message[:MOST_WORDS],
        last_transition_time=since,
        observed_generation=batcher.generation,
    )
