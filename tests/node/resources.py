"""DTESNBatchers on the node, and their pods through a test's eyes."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.cluster.batchers import Cluster, batcher
from tests.cluster.control_plane import until
from tests.node.calls import Caller

MODEL = {"membraneDepth": 2, "esnSize": 64}


def resource(name: str = "demo", **spec: Any) -> dict[str, Any]:
    """A small model on the CPU, in pods that end soon."""
    small = {"model": MODEL, "backend": "numpy", "batching": {"defaultTimeoutSeconds": 20, "maxTimeoutSeconds": 20}}
    return batcher(name, **{**small, **spec})


def served(cluster: Cluster, caller: Caller, **spec: Any) -> list[dict[str, Any]]:
    """Apply a resource and wait until it is Ready and its Service has led to each pod; its pods.

    Ready speaks of the pods, and their endpoints are ready by then. The node's kube-proxy writes the Service's way to each of them a
    moment later, at most a second; until then its address refuses connections, as that of any Service without endpoints does, and
    clients that keep their connections would all have theirs to the pod that came first.
    """
    cluster.apply(resource(**spec))
    cluster.until_ready()
    found = pods(cluster)

    def led_to_all() -> bool:
        caller.until_answered(url(cluster), 4 * len(found))
        return all(map(answered, found))

    until(led_to_all, what="answers of every pod through the Service")
    return found


def url(cluster: Cluster, name: str = "demo") -> str:
    """The resource's Service by its name, as any pod of the cluster finds it."""
    return f"http://{name}.{cluster.namespace}.svc.cluster.local"


def pods(cluster: Cluster, name: str = "demo") -> list[dict[str, Any]]:
    """The resource's pods that are not on their way out, oldest first."""
    labels = {"app.kubernetes.io/name": "dtesn-batcher", "app.kubernetes.io/instance": name}.items()
    found = [pod for pod in cluster.get("pods")["items"] if labels <= pod["metadata"].get("labels", {}).items()]
    alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return sorted(alive, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def ready(pod: dict[str, Any]) -> bool:
    """Whether the pod is Ready."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def asked(pod: dict[str, Any], path: str) -> Any:
    """What the sidecar of a pod says."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080{path}", timeout=5) as answer:
        return json.load(answer)


def answered(pod: dict[str, Any]) -> int:
    """How many requests the pod has answered since its batches are counted."""
    return int(asked(pod, "/dtesn/batch_metrics")["metrics"]["requests_processed"])


def until_replaced(cluster: Cluster, before: list[dict[str, Any]], image: str, name: str = "demo", seconds: float = 180.0) -> None:
    """Wait until other pods than those stand in their place, of the image, all Ready."""
    old = {pod["metadata"]["uid"] for pod in before}

    def replaced() -> bool:
        found = pods(cluster, name)
        containers = [one for pod in found for one in pod["spec"]["containers"] if one["name"] == "dtesn-sidecar"]
        return (
            len(found) == len(before)
            and old.isdisjoint(pod["metadata"]["uid"] for pod in found)
            and all(one["image"] == image for one in containers)
            and all(map(ready, found))
        )

    until(replaced, seconds, what="other pods in their place")


def identities(found: list[dict[str, Any]]) -> dict[str, int]:
    """Pods, and how often their containers were started again."""
    return {pod["metadata"]["uid"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", [])) for pod in found}
