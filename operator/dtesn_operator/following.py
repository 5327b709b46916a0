"""Whether a resource's pods follow its live settings, and what to do about those that do not. Pure: `now` is passed in.

A pod that started after the settings were written has them. Any other is annotated with their hash, upon which the kubelet
brings its files up to date at once, and asked for its `/config` until that reports the hash; every ten seconds it is annotated anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dtesn_api import names
from dtesn_operator.pods import Pod

TELL_EVERY: Final = 10.0
ASK_FIRST: Final = 0.3
ASK_MOST: Final = 10.0
PATIENCE: Final = 120.0  # after that a pod is taken to be silent, and is told and asked less often
SILENT_EVERY: Final = 60.0


@dataclass(slots=True)
class Memory:
    """What is remembered of a resource's pods, by UID: which have the settings of `config_hash`, when each is told and asked next."""

    config_hash: str = ""
    since: float = 0.0
    following: set[str] = field(default_factory=set)
    told: dict[str, tuple[float, int]] = field(default_factory=dict)
    asked: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """Pods to annotate (with the number of times before), pods to ask, the ready ones that are behind, seconds until the next step."""

    tell: tuple[tuple[Pod, int], ...] = ()
    ask: tuple[Pod, ...] = ()
    behind: tuple[Pod, ...] = ()
    again: float | None = None


def begin(memory: Memory, config_hash: str, now: float, trusted: Iterable[Pod] = ()) -> None:
    """Turn to these settings, unless that is done. `trusted`: pods that are known to have them."""
    if memory.config_hash == config_hash:
        return
    memory.config_hash, memory.since = config_hash, now
    memory.following = {pod.uid for pod in trusted}
    memory.told.clear()
    memory.asked.clear()


def step(memory: Memory, pods: Sequence[Pod], written: str | None, now: float) -> Step:
    """What is to be done now. `written`: when the settings were changed, None where they never were since they were made."""
    alive = {pod.uid for pod in pods}
    memory.following &= alive
    if written is None:
        memory.following |= alive
    late = [pod for pod in pods if pod.uid not in memory.following and not (written is not None and pod.created > written)]
    if not late:
        return Step()
    patient = now - memory.since < PATIENCE
    tell, ask, due = [], [], []
    for pod in late:
        at, times = memory.told.get(pod.uid, (now, 0))
        if now >= at:
            tell.append((pod, times))
            memory.told[pod.uid] = (now + (TELL_EVERY if patient else SILENT_EVERY), times + 1)
        due.append(memory.told[pod.uid][0])
        if not (pod.ready and pod.ip):
            continue
        at, times = memory.asked.get(pod.uid, (now + ASK_FIRST, 0))
        if now >= at:
            ask.append(pod)
            times += 1
            at = now + (min(ASK_MOST, ASK_FIRST * 2**times) if patient else SILENT_EVERY)
        memory.asked[pod.uid] = (at, times)
        due.append(at)
    return Step(tuple(tell), tuple(ask), tuple(pod for pod in late if pod.ready), max(0.05, min(due) - now))


def heard(memory: Memory, pod: Pod, config_hash: str | None) -> bool:
    """Take in what a pod reported; whether it follows now."""
    if config_hash == memory.config_hash:
        memory.following.add(pod.uid)
        return True
    return False


def written_at(config_map: Mapping[str, Any] | None) -> str | None:
    """When the ConfigMap was last written by us, None where that was when it was made: by a POST, and every time after by an apply.

    Times are whole seconds, so that those of both may be the same.
    """
    entries = (config_map or {}).get("metadata", {}).get("managedFields") or ()
    times = [
        str(entry["time"])
        for entry in entries
        if entry.get("manager") == names.FIELD_MANAGER and entry.get("operation") == "Apply" and entry.get("time")
    ]
    return max(times, default=None)
