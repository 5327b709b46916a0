"""DTESNBatchers for the tests, and what they look at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.cluster.control_plane import ControlPlane, until


def batcher(name: str = "demo", **spec: Any) -> dict[str, Any]:
    """A manifest."""
    return {"apiVersion": "dtesn.dev/v1alpha1", "kind": "DTESNBatcher", "metadata": {"name": name}, "spec": spec}


def warning(pod: dict[str, Any], reason: str, message: str) -> dict[str, Any]:
    """An Event about a pod, as a kubelet writes it."""
    about = {"apiVersion": "v1", "kind": "Pod", **{key: pod["metadata"][key] for key in ("name", "namespace", "uid")}}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{pod['metadata']['name']}.1"},
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet"},
        **dict.fromkeys(("firstTimestamp", "lastTimestamp"), now),
        "count": 1,
    }


class Cluster:
    """One namespace of the control plane through a test's eyes."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Server-side apply, as a person's own manager."""
        self.plane.apply(*manifests, namespace=self.namespace)

    def get(self, what: str) -> Any:
        """An object or a list, as JSON."""
        return self.plane.get(what, namespace=self.namespace)

    def exists(self, what: str) -> bool:
        """Whether there is such an object."""
        return self.plane.exists(what, self.namespace)

    def kubectl(self, *arguments: str, data: str | None = None) -> str:
        """kubectl in the namespace."""
        return self.plane.kubectl("-n", self.namespace, *arguments, data=data).stdout

    def condition(self, kind: str, name: str = "demo") -> dict[str, Any]:
        """A condition of a resource; empty where it is not there yet."""
        return _condition(self.get(f"dtesnbatcher/{name}"), kind)

    def until_ready(self, name: str = "demo", seconds: float = 60.0) -> None:
        """Wait for Ready, of the present generation."""

        def ready() -> bool:
            found = self.get(f"dtesnbatcher/{name}")
            one = _condition(found, "Ready")
            return bool(one and one["status"] == "True" and one["observedGeneration"] == found["metadata"]["generation"])

        until(ready, seconds, what=f"{name} Ready")

    def until_condition(self, kind: str, status: str, reason: str, name: str = "demo", seconds: float = 30.0) -> dict[str, Any]:
        """Wait for a condition, and return it."""

        def there() -> dict[str, Any] | None:
            one = self.condition(kind, name)
            return one if (one.get("status"), one.get("reason")) == (status, reason) else None

        found: dict[str, Any] = until(there, seconds, what=f"{kind} {status} {reason}")
        return found

    def told(self, name: str = "demo") -> list[tuple[str, str, str]]:
        """Type, reason and sentence of each Event about a resource."""
        events = [one for one in self.get("events")["items"] if one["involvedObject"]["kind"] == "DTESNBatcher"]
        return [(one["type"], one["reason"], one["message"]) for one in events if one["involvedObject"]["name"] == name]

    def edited(self, what: str, patch: str, kind: str = "merge") -> None:
        """Edit an object by hand."""
        self.kubectl("patch", what, "--type", kind, "-p", patch)


def _condition(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((one for one in resource.get("status", {}).get("conditions", []) if one["type"] == kind), {})
