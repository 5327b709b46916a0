"""A resource's pods as the operator looks at them. Pure: from the pods' manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dtesn_api import names


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: where it is, since when, whether it is ready, the settings' hash that it was told of, and what keeps it from being ready."""

    name: str
    uid: str
    ip: str
    ready: bool
    told: str
    trouble: str
    created: str = ""


def pods_of(manifests: Iterable[Mapping[str, Any]]) -> list[Pod]:
    """The pods that have not ended, by name."""
    found = [_pod(manifest) for manifest in manifests if not _over(manifest)]
    return sorted(found, key=lambda pod: pod.name)


def _over(manifest: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in manifest["metadata"] or (manifest.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _pod(manifest: Mapping[str, Any]) -> Pod:
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        ip=status.get("podIP", ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        told=(metadata.get("annotations") or {}).get(names.ANNOTATION_CONFIG_HASH, ""),
        trouble=_trouble(conditions, status),
        created=metadata.get("creationTimestamp", ""),
    )


def _trouble(conditions: Mapping[str, Mapping[str, Any]], status: Mapping[str, Any]) -> str:
    """What a person should know, or nothing: an unschedulable pod, a container that cannot start or that ended badly."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "not scheduled")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, _badly(state)
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"container {container['name']}: {waiting['reason']}{_said(waiting)}{_last(container)}"
        if ended:
            return f"container {container['name']} ended with {ended}"
        if not container.get("ready") and (before := _badly(container.get("lastState") or {})):
            return f"container {container['name']} ended with {before}, and starts again"
    return ""


def _said(state: Mapping[str, Any]) -> str:
    return f": {state['message']}" if state.get("message") else ""


def _last(container: Mapping[str, Any]) -> str:
    ended = (container.get("lastState") or {}).get("terminated")
    return f" (ended last with {_how(ended)})" if ended else ""


def _badly(state: Mapping[str, Any]) -> str:
    """How a container ended that did not end well, or nothing."""
    ended = state.get("terminated") or {}
    return _how(ended) if ended.get("exitCode") else ""


def _how(ended: Mapping[str, Any]) -> str:
    return f"{ended.get('reason') or 'no reason'}, exit code {ended.get('exitCode')}"
