"""The kinds of objects that a DTESNBatcher owns, and how an object is named. Manifests are plain dicts, as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dtesn_api import names

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A kind of the Kubernetes API, all of them namespaced. `optional`: a cluster may be without it."""

    group: str
    version: str
    plural: str
    kind: str
    optional: bool = False

    @property
    def api_version(self) -> str:
        """`apiVersion` of its manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """What no two objects of a cluster share."""

    kind: Kind
    namespace: str
    name: str


DTESN_BATCHER: Final = Kind(names.GROUP, names.VERSION, names.PLURAL, names.KIND)

SERVICE_ACCOUNT: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")
CONFIG_MAP: Final = Kind("", "v1", "configmaps", "ConfigMap")
RESOURCE_CLAIM_TEMPLATE: Final = Kind("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", optional=True)
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
SERVICE: Final = Kind("", "v1", "services", "Service")
DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
POD_DISRUPTION_BUDGET: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
HORIZONTAL_POD_AUTOSCALER: Final = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
SCALED_OBJECT: Final = Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject", optional=True)
POD_MONITOR: Final = Kind("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor", optional=True)

POD: Final = Kind("", "v1", "pods", "Pod")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
CORE_EVENT: Final = Kind("", "v1", "events", "Event")  # what is said of pods
EVENT: Final = Kind("events.k8s.io", "v1", "events", "Event")

# In the order of applying: what pods need comes before the Deployment, what restricts their traffic too; the rest can follow it.
OWNED: Final = (
    SERVICE_ACCOUNT,
    CONFIG_MAP,
    RESOURCE_CLAIM_TEMPLATE,
    NETWORK_POLICY,
    DEPLOYMENT,
    SERVICE,
    POD_DISRUPTION_BUDGET,
    HORIZONTAL_POD_AUTOSCALER,
    SCALED_OBJECT,
    POD_MONITOR,
)

_BY_NAME: Final = {(kind.api_version, kind.kind): kind for kind in (*OWNED, DTESN_BATCHER, POD)}


def key_of(manifest: Mapping[str, Any]) -> ObjectKey:
    """The key of an object of one of these kinds. Raises KeyError where it is of another, or has no name."""
    metadata = manifest["metadata"]
    return ObjectKey(_BY_NAME[manifest["apiVersion"], manifest["kind"]], metadata.get("namespace", ""), metadata["name"])
