"""What a resource asks for: all objects that should exist, from the resource and what is known of the cluster. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import Kind, Manifest
from dtesn_operator.resources.claim_template import claim_template
from dtesn_operator.resources.config_map import config_map
from dtesn_operator.resources.container import claimed
from dtesn_operator.resources.deployment import deployment, template_hash_of
from dtesn_operator.resources.horizontal_pod_autoscaler import horizontal_pod_autoscaler
from dtesn_operator.resources.network_policy import network_policy
from dtesn_operator.resources.pod_disruption_budget import pod_disruption_budget
from dtesn_operator.resources.pod_monitor import pod_monitor
from dtesn_operator.resources.scaled_object import scaled_object
from dtesn_operator.resources.service import service
from dtesn_operator.resources.service_account import service_account
from dtesn_operator.resources.settings import live_file
from dtesn_operator.resources.template import grace


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the operator knows of its surroundings.

    `operator_image`: the sidecar's image where a resource names none. `available`: the optional kinds that the API server
    has. `prometheus_namespaces`: from where scrapes come, for NetworkPolicies.
    """

    operator_image: str
    operator_namespace: str = ""
    available: frozenset[Kind] = field(default_factory=frozenset)
    prometheus_namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """The objects in the order of applying, the sidecar's image, the SHA-256 of the live settings' bytes, and the
    optional kinds that are asked for and not installed."""

    objects: tuple[Manifest, ...]
    image: str
    config_hash: str
    missing: tuple[Kind, ...] = ()


def desired(batcher: Batcher, cluster: Cluster, observed: Mapping[str, Any] | None = None) -> Desired:
    """Everything that should exist for the resource. `observed` is its Deployment as last seen, if any.

    Raises `SpecInvalid` where the pod template does not go with the sidecar, which no schema can say.
    """
    spec, scaled = batcher.spec, batcher.spec.autoscaling.enabled
    image, workload = _workload(batcher, cluster, observed)
    live = live_settings(spec)
    builders: tuple[tuple[Kind, bool, Callable[[], Manifest]], ...] = (
        (kinds.SERVICE_ACCOUNT, True, lambda: service_account(batcher)),
        (kinds.CONFIG_MAP, True, lambda: config_map(batcher, live)),
        (kinds.RESOURCE_CLAIM_TEMPLATE, claimed(spec.gpu), lambda: claim_template(batcher)),
        (kinds.NETWORK_POLICY, spec.network_policy.enabled, lambda: network_policy(batcher, _scrapers(cluster))),
        (kinds.DEPLOYMENT, True, lambda: workload),
        (kinds.SERVICE, True, lambda: service(batcher)),
        (kinds.POD_DISRUPTION_BUDGET, spec.disruption_budget.enabled, lambda: pod_disruption_budget(batcher)),
        (kinds.HORIZONTAL_POD_AUTOSCALER, scaled and spec.autoscaling.via == "hpa", lambda: horizontal_pod_autoscaler(batcher)),
        (kinds.SCALED_OBJECT, scaled and spec.autoscaling.via == "keda", lambda: scaled_object(batcher)),
        (kinds.POD_MONITOR, spec.monitoring.pod_monitor, lambda: pod_monitor(batcher)),
    )
    wanted = [(kind, build) for kind, asked, build in builders if asked]
    return Desired(
        objects=tuple(build() for kind, build in wanted if not kind.optional or kind in cluster.available),
        image=image,
        config_hash=sha256(live).hexdigest(),
        missing=tuple(kind for kind, _ in wanted if kind.optional and kind not in cluster.available),
    )


def _workload(batcher: Batcher, cluster: Cluster, observed: Mapping[str, Any] | None) -> tuple[str, Manifest]:
    """The image and the Deployment with it.

    An image that the operator chose is kept, so that a newer operator restarts no pod, until the pods are replaced for
    another reason: then they take the present choice with them.
    """
    kept = current_image(batcher, cluster)
    workload = deployment(batcher, kept)
    given = batcher.spec.image is not None and batcher.spec.image.repository is not None
    if given or kept == cluster.operator_image or observed is None or template_hash_of(observed) == template_hash_of(workload):
        return kept, workload
    return cluster.operator_image, deployment(batcher, cluster.operator_image)


def live_settings(spec: DTESNBatcherSpec) -> bytes:
    """The bytes of the configuration file of a resource whose template has been checked."""
    return live_file(spec, grace(spec))


def _scrapers(cluster: Cluster) -> list[str]:
    """The namespaces from which figures are read."""
    return [name for name in (cluster.operator_namespace, *cluster.prometheus_namespaces) if name]


def current_image(batcher: Batcher, cluster: Cluster) -> str:
    """The sidecar's image: the one that the resource names, else the one that it was given before, else the operator's."""
    image = batcher.spec.image
    if image is not None and image.repository is not None:
        return f"{image.repository}:{image.tag}"
    return str(batcher.status.get("image") or cluster.operator_image)
