"""What the operator renders is what a real API server takes: strictly, under the restricted standard, and without a second write."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.cluster.control_plane import ControlPlane, until
from tests.unit.operator.specs import APPLICATION, CLUSTER, EVERYTHING, batcher, batchers, template_of

from dtesn_api.spec import ComputeResources, NetworkPolicy
from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import desired
from dtesn_operator.kinds import Manifest

PRESENT = replace(CLUSTER, available=frozenset({kinds.RESOURCE_CLAIM_TEMPLATE}))  # neither KEDA nor the Prometheus operator
KEDA = {"enabled": True, "via": "keda", "prometheusUrl": "http://p:9090"}
CLAIM = {"persistentVolumeClaim": {"claimName": "models", "path": "a"}}
RESTRICTED = {
    **APPLICATION,
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True},
}
SPECS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "application": {"template": {"spec": {"containers": [APPLICATION]}}},
    "own account": {"template": {"spec": {"containers": [APPLICATION], "serviceAccountName": "own", "securityContext": {"runAsUser": 0}}}},
    "device plugin": {"gpu": {"count": 2}, "strategy": {"maxSurge": "25%"}, "model": {"readout": CLAIM}},
    "claim": {"gpu": {"count": 1, "deviceClassName": "gpu.example"}},
    "cpu": {"autoscaling": {"enabled": True, "target": "cpu"}, "sidecar": {"resources": {"requests": {"cpu": "250m"}}}},
    "pending": {"autoscaling": {"enabled": True, "target": "pendingPerPod", "value": 2.5}},
    "keda": {"autoscaling": KEDA, "monitoring": {"podMonitor": True}},
    "policy": {"networkPolicy": {"enabled": True, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}},
    "load balancer": {"service": {"type": "LoadBalancer"}, "disruptionBudget": {"enabled": True}, "replicas": 0},
    "empty parts": {"template": {"metadata": {"annotations": {}}, "spec": {"tolerations": [], "affinity": None, "containers": []}}},
}


def in_namespace(resource: Batcher, namespace: str) -> list[Manifest]:
    return list(desired(replace(resource, namespace=namespace), PRESENT).objects)


def strict_dry_run(plane: ControlPlane, objects: list[Manifest]) -> None:
    """Every object is taken as it is, unknown and repeated fields refused."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", data=listed)


@pytest.mark.parametrize("name", SPECS)
def test_a_strict_api_server_takes_every_object(control_plane: ControlPlane, namespace: str, name: str) -> None:
    strict_dry_run(control_plane, in_namespace(batcher(SPECS[name], "a" * 52), namespace))


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(batchers(), min_size=8, max_size=12))
def test_it_takes_what_any_resource_asks_for(control_plane: ControlPlane, namespace: str, resources: list[Batcher]) -> None:
    strict_dry_run(control_plane, [one for found in resources for one in in_namespace(without_the_users_own(found), namespace)])


def without_the_users_own(resource: Batcher) -> Batcher:
    """The resource without what is passed on in the user's words, which may be no Kubernetes at all."""
    spec = resource.spec
    gpu = structs.replace(spec.gpu, resource_name=None)
    sidecar = structs.replace(spec.sidecar, env=(), resources=ComputeResources())
    policy = NetworkPolicy(enabled=spec.network_policy.enabled)
    return replace(resource, spec=structs.replace(spec, template=None, gpu=gpu, sidecar=sidecar, network_policy=policy))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"template": {"spec": {"containers": [RESTRICTED], "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}}},
        {"model": {"readout": CLAIM}, "load": EVERYTHING["load"]},
        {"gpu": {"count": 1, "deviceClassName": "gpu.example"}},
    ],
)
def test_the_pods_are_admitted_under_the_restricted_standard(control_plane: ControlPlane, namespace: str, spec: dict[str, Any]) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    result = desired(replace(batcher(spec), namespace=namespace), PRESENT)
    (account,) = [one for one in result.objects if one["kind"] == "ServiceAccount"]
    control_plane.apply({**account, "metadata": {"name": "demo"}}, namespace=namespace)
    template = template_of(result)
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": "demo", "namespace": namespace}}
    strict_dry_run(control_plane, [pod])


def test_that_standard_refuses_an_application_without_a_security_context(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    until(lambda: control_plane.get("serviceaccount/default", namespace=namespace), what="the account of the namespace")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": namespace}, "spec": {"containers": [APPLICATION]}}
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        strict_dry_run(control_plane, [pod])


@pytest.mark.parametrize("name", [name for name in SPECS if name != "keda"])
def test_applying_the_same_again_writes_nothing(control_plane: ControlPlane, namespace: str, name: str) -> None:
    objects = [_unowned(one) for one in in_namespace(batcher(SPECS[name]), namespace)]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})

    manager = ("--server-side", "--field-manager=dtesn-operator", "-f", "-")
    control_plane.kubectl("apply", *manager, data=listed)

    def the_same() -> bool:
        again = control_plane.kubectl("diff", *manager, data=listed, check=False)
        if again.returncode or again.stdout:  # also where a controller wrote a status between the two answers that are compared
            raise RuntimeError(f"{again.stdout}\n{again.stderr}")
        return True

    until(the_same, what="an apply that changes nothing")


def _unowned(one: Manifest) -> Manifest:
    """Without the owner, which does not exist here: the garbage collector would take the object away."""
    return {**one, "metadata": {key: value for key, value in one["metadata"].items() if key != "ownerReferences"}}


def test_all_pods_become_ready(control_plane: ControlPlane, namespace: str) -> None:
    objects = [_unowned(one) for one in in_namespace(batcher(), namespace)]
    control_plane.apply(*objects, namespace=namespace)
    until(lambda: control_plane.get("deployment/demo", namespace=namespace)["status"].get("readyReplicas") == 2, what="two ready pods")
    slices = control_plane.get("endpointslices", namespace=namespace)["items"]
    assert {port["port"] for one in slices for port in one["ports"] or ()} == {8080}
    for pod in control_plane.get("pods", namespace=namespace)["items"]:
        assert not any("projected" in volume for volume in pod["spec"]["volumes"]), "an API token is mounted"


def test_the_service_finds_a_native_sidecar_by_the_name_of_its_port(control_plane: ControlPlane, namespace: str) -> None:
    spec = {"template": {"spec": {"containers": [{**APPLICATION, "ports": [{"name": "http", "containerPort": 80}]}]}}, "replicas": 1}
    control_plane.apply(*[_unowned(one) for one in in_namespace(batcher(spec), namespace)], namespace=namespace)

    def ports() -> set[int]:
        slices = control_plane.get("endpointslices", namespace=namespace)["items"]
        return {port["port"] for one in slices if one["endpoints"] for port in one["ports"] or ()}

    assert until(ports, what="an endpoint") == {8080}
