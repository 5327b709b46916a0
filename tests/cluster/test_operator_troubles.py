"""What no schema can say becomes a Degraded condition with a reason and a sentence, is tried again, and stops no other resource."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.batchers import Cluster, batcher, warning
from tests.cluster.control_plane import ControlPlane, until
from tests.cluster.operator_process import Replica, replica
from tests.cluster.processes import free_port

from dtesn_api import names


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("troubles"), control_plane.kubeconfig, lease_namespace="default") as running:
        yield running


@pytest.mark.usefixtures("operator")
def test_a_template_that_is_no_pod_template_degrades_this_resource_alone(cluster: Cluster) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    generation = cluster.get("deployment/demo")["metadata"]["generation"]
    cluster.apply(batcher(template={"spec": {"nodeSelektor": {"a": "b"}}}), batcher("other"))
    found = cluster.until_condition("Degraded", "True", "TemplateInvalid")
    assert "nodeSelektor" in found["message"]
    cluster.until_ready("other")
    assert cluster.told() == [("Warning", "TemplateInvalid", found["message"])]
    assert cluster.get("deployment/demo")["metadata"]["generation"] == generation
    cluster.apply(batcher(template={"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}))
    cluster.until_condition("Degraded", "False", "AsExpected")


@pytest.mark.usefixtures("operator")
def test_a_quota_that_forbids_pods_is_quoted(cluster: Cluster) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.apply(quota)
    until(lambda: cluster.get("resourcequota/none").get("status", {}).get("hard"), what="the quota")
    cluster.apply(batcher())
    found = cluster.until_condition("Degraded", "True", "ReplicaFailure")
    assert "exceeded quota" in found["message"]
    assert ("Warning", "ReplicaFailure", found["message"]) in cluster.told()
    assert cluster.condition("Ready")["status"] == "False"


@pytest.mark.usefixtures("operator")
def test_an_application_on_the_sidecars_port_is_told_and_the_rest_goes_on(cluster: Cluster) -> None:
    container = {"name": "app", "image": "registry.example/app:1", "ports": [{"containerPort": 8080}]}
    cluster.apply(batcher(template={"spec": {"containers": [container]}}), batcher("other"))
    found = cluster.until_condition("Degraded", "True", "TemplateInvalid")
    assert "8080" in found["message"]
    cluster.until_ready("other")


@pytest.fixture
def refusing(cluster: Cluster) -> Iterator[str]:
    """A policy that refuses the Service `demo`, for the namespace alone; its name."""
    name = f"refuse-{cluster.namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["services"]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "object.metadata.name != 'demo'", "message": "not on a Friday"}],
        },
    }
    namespaces = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": namespaces},
    }
    cluster.plane.apply(policy, binding)
    until(lambda: not _may_create_a_service(cluster), what="the policy in force")
    yield name
    cluster.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name, "--ignore-not-found")


def _may_create_a_service(cluster: Cluster) -> bool:
    command = ("create", "service", "clusterip", "demo", "--tcp=80", "--dry-run=server", "-n", cluster.namespace)
    return cluster.plane.kubectl(*command, check=False).returncode == 0


@pytest.mark.usefixtures("operator")
def test_an_admission_policy_that_refuses_is_quoted_stops_nobody_else_and_is_asked_again(cluster: Cluster, refusing: str) -> None:
    cluster.apply(batcher(), batcher("other"))
    found = cluster.until_condition("Degraded", "True", "ObjectRefused")
    assert "the Service demo" in found["message"]
    assert "not on a Friday" in found["message"]
    cluster.until_ready("other")
    cluster.until_ready()  # its pods run: only the Service is missing
    cluster.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", refusing)
    cluster.until_condition("Degraded", "False", "AsExpected", seconds=90)
    assert cluster.exists("service/demo")


@pytest.mark.usefixtures("operator")
def test_a_gpu_that_no_node_has_is_told_from_the_pods(cluster: Cluster) -> None:
    cluster.apply(batcher(gpu={"count": 1}))
    found = cluster.until_condition("Degraded", "True", "PodsFailing")
    assert "Insufficient nvidia.com/gpu" in found["message"]


@pytest.mark.usefixtures("operator")
def test_a_claim_that_does_not_exist_is_told_from_the_pods(cluster: Cluster) -> None:
    cluster.apply(batcher(model={"readout": {"persistentVolumeClaim": {"claimName": "absent", "path": "r.safetensors"}}}))
    found = cluster.until_condition("Degraded", "True", "PodsFailing")
    assert 'persistentvolumeclaim "absent" not found' in found["message"]


@pytest.mark.usefixtures("operator")
def test_a_kind_that_is_not_installed_is_named_and_the_rest_is_there(cluster: Cluster) -> None:
    cluster.apply(batcher(monitoring={"podMonitor": True}))
    found = cluster.until_condition("Degraded", "True", "KindMissing")
    assert "the cluster has no PodMonitor (monitoring.coreos.com)" in found["message"]
    cluster.until_ready()


@pytest.fixture
def silent(cluster: Cluster) -> Iterator[str]:
    """A webhook for the namespace's Services at which nobody answers; its name."""
    name = f"silent-{cluster.namespace}"
    webhook = {
        "name": "silent.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{free_port()}/"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["services"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    cluster.plane.apply({**kind, "metadata": {"name": name}, "webhooks": [webhook]})
    until(lambda: not _may_create_a_service(cluster), what="the webhook in force")
    yield name
    cluster.kubectl("delete", "validatingwebhookconfiguration", name, "--ignore-not-found")


@pytest.mark.usefixtures("operator")
def test_a_webhook_that_does_not_answer_is_quoted_stops_nobody_else_and_is_asked_again(cluster: Cluster, silent: str) -> None:
    cluster.apply(batcher())
    found = cluster.until_condition("Degraded", "True", "ObjectRefused")
    assert "the Service demo" in found["message"]
    assert 'failed calling webhook "silent.example.com"' in found["message"]
    cluster.until_ready()
    cluster.kubectl("delete", "validatingwebhookconfiguration", silent)
    cluster.until_condition("Degraded", "False", "AsExpected", seconds=90)
    assert cluster.exists("service/demo")


@pytest.mark.usefixtures("operator")
def test_a_secret_that_is_missing_is_told_from_the_events_of_the_pods(cluster: Cluster) -> None:
    """The pods are on a node that is not there; what its kubelet would say, the test says."""
    volumes = [{"name": "key", "secret": {"secretName": "absent"}}]
    cluster.apply(batcher(replicas=1, template={"spec": {"nodeName": "nowhere", "volumes": volumes}}), batcher("other"))
    pod = until(lambda: next(iter(pods_of(cluster, "demo")), None), what="a pod")
    cluster.until_ready("other")  # the pod was looked at meanwhile, and nothing was said yet
    cluster.apply(warning(pod, "FailedMount", 'MountVolume.SetUp failed for volume "key": secret "absent" not found'))
    found = cluster.until_condition("Degraded", "True", "PodsFailing")
    assert pod["metadata"]["name"] in found["message"]
    assert 'secret "absent" not found' in found["message"]
    assert ("Warning", "PodsFailing", found["message"]) in cluster.told()


def pods_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.get("pods")["items"]
    return [pod for pod in found if pod["metadata"]["labels"].get(names.LABEL_INSTANCE) == name]
