"""What the operator reads from the manifest of a pod: whether it counts, whether it is ready, and what keeps it from being so."""

from __future__ import annotations

from typing import Any

import pytest

from dtesn_operator.pods import pods_of

OOM = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
FINE = {"terminated": {"reason": "Completed", "exitCode": 0}}
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def container(state: dict[str, Any], last: dict[str, Any] | None = None, *, ready: bool = False) -> dict[str, Any]:
    return {"name": "dtesn-sidecar", "state": state, "lastState": last or {}, "ready": ready}


def pod(name: str = "demo-1", *, ready: str = "False", deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": ready}], **status}}


def trouble(**status: Any) -> str:
    (found,) = pods_of([pod(**status)])
    return found.trouble


def test_pods_that_have_ended_or_are_ending_do_not_count() -> None:
    ended = [pod("gone", deleted=True), pod("done", phase="Succeeded"), pod("lost", phase="Failed")]
    assert [one.name for one in pods_of([*ended, pod("b"), pod("a", ready="True")])] == ["a", "b"]
    assert [one.ready for one in pods_of([pod("b"), pod("a", ready="True")])] == [True, False]


def test_a_pod_that_no_node_takes_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}
    assert trouble(conditions=[condition]) == "0/2 nodes are available"


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_being_made_is_no_trouble(reason: str) -> None:
    assert trouble(containerStatuses=[container(waiting(reason))]) == ""


def test_a_container_that_cannot_start_says_why_and_how_it_ended_last() -> None:
    refused = container(waiting("ImagePullBackOff", "no such image"))
    assert trouble(containerStatuses=[refused]) == "container dtesn-sidecar: ImagePullBackOff: no such image"
    again = container(waiting("CrashLoopBackOff"), OOM)
    assert trouble(containerStatuses=[again]) == "container dtesn-sidecar: CrashLoopBackOff (ended last with OOMKilled, exit code 137)"


def test_a_container_that_was_killed_is_named_until_it_is_ready_again() -> None:
    assert trouble(containerStatuses=[container(OOM)]) == "container dtesn-sidecar ended with OOMKilled, exit code 137"
    words = "container dtesn-sidecar ended with OOMKilled, exit code 137, and starts again"
    assert trouble(containerStatuses=[container(RUNNING, OOM)]) == words
    assert trouble(initContainerStatuses=[container(RUNNING, OOM)]) == words  # the native sidecar
    assert trouble(containerStatuses=[container(RUNNING, OOM, ready=True)]) == ""


def test_a_container_that_ended_well_is_no_trouble() -> None:
    assert trouble(initContainerStatuses=[container(FINE)], containerStatuses=[container(RUNNING, FINE)]) == ""
