"""What the chart grants is what the operator uses, no more and no less: read from the API server's audit log after everything was used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.cluster import batchers
from tests.cluster.batchers import batcher, warning
from tests.cluster.chart import FULLNAME, NAMESPACE, Helm, Installed, audited, authority, lead_webhook_here, operator
from tests.cluster.control_plane import ControlPlane, until
from tests.cluster.definitions import KEDA, POD_MONITOR

from dtesn_api import names

SHOP = "shop"
FULL = {
    "template": {"metadata": {"labels": {"team": "shop"}}},
    "disruptionBudget": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "monitoring": {"podMonitor": True},
    "autoscaling": {"enabled": True, "target": "cpu"},
}
BY_KEDA = {"autoscaling": {"enabled": True, "via": "keda", "prometheusUrl": "http://prometheus.monitoring.svc:9090"}}
UNHEARD = {"replicas": 1, "template": {"spec": {"nodeName": "nowhere"}}}  # pods of which nobody says anything
BY_CLAIM = {"replicas": 1, "gpu": {"count": 1, "deviceClassName": "gpu.example"}}

Right = tuple[str, str, str]  # API group, resource with its subresource, verb


@dataclass(frozen=True)
class Played:
    """What was granted, and what was asked, in the scenario."""

    granted: set[Right]
    named: dict[tuple[str, str], set[str]]  # the names that a rule is narrowed to
    asked: list[dict[str, Any]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The scenario, played once: an operator under the chart's rights does all that it can be asked for."""
    folder = tmp_path_factory.mktemp("rights")
    with ControlPlane.started(folder / "cluster", first=[*KEDA.files(), *POD_MONITOR.files()]) as plane:
        for name in (NAMESPACE, SHOP):
            plane.create_namespace(name)
        Helm(folder / "helm", plane.kubeconfig).install()
        cluster = batchers.Cluster(plane, SHOP)
        with operator(plane, folder) as running:
            everything_is_made(cluster)
            everything_is_repaired(cluster)
            everything_is_changed_and_taken_away(cluster)
            pods_are_injected(plane, cluster, running)
        with operator(plane, folder, identity="two"):  # takes the lease of one that has gone
            cluster.kubectl("delete", "dtesnbatchers", "--all")
            # The garbage collector looks for new kinds every 30 seconds only.
            until(lambda: cluster.get(",".join(OWNED))["items"] == [], 120, what="the end of all that is owned")
        granted, named = granted_to(plane)
        yield Played(granted, named, audited(plane, running.user))


OWNED = ("deployments", "podmonitors", "scaledobjects", "horizontalpodautoscalers", "resourceclaimtemplates", "networkpolicies")
OF_FULL = ("serviceaccount", "configmap", "service", "deployment", "poddisruptionbudget", "networkpolicy", "podmonitor", "hpa")


def owned_by_all(cluster: batchers.Cluster) -> list[str]:
    """An object of every kind that the operator makes."""
    (claim,) = until(
        lambda: [one["metadata"]["name"] for one in cluster.get("resourceclaimtemplates")["items"]], what="the claim's template"
    )
    return [*(f"{kind}/full" for kind in OF_FULL), "scaledobject/keda", f"resourceclaimtemplate/{claim}"]


def everything_is_made(cluster: batchers.Cluster) -> None:
    cluster.apply(batcher("full", **FULL), batcher("keda", **BY_KEDA), batcher("claim", **BY_CLAIM), batcher("unheard", **UNHEARD))
    cluster.until_ready("full")
    until(lambda: all(cluster.exists(one) for one in owned_by_all(cluster)), what="all objects")
    found = cluster.until_condition("Degraded", "True", "PodsFailing", name="claim")  # there is no such device
    assert "claim" in found["message"]
    (pod,) = until(lambda: pods_of(cluster, "unheard"), what="a pod")
    cluster.apply(warning(pod, "FailedMount", "a volume is missing"))
    cluster.until_condition("Degraded", "True", "PodsFailing", name="unheard")
    until(lambda: "PodsFailing" in {event["reason"] for event in cluster.get("events")["items"]}, what="an event of the operator's")


def everything_is_repaired(cluster: batchers.Cluster) -> None:
    for one in owned_by_all(cluster):
        cluster.kubectl("label", one, f"{names.LABEL_NAME}=other", "--overwrite")
    for one in owned_by_all(cluster):
        until(lambda one=one: cluster.get(one)["metadata"]["labels"][names.LABEL_NAME] == names.PART_OF, what=f"the label of {one}")


def everything_is_changed_and_taken_away(cluster: batchers.Cluster) -> None:
    before = hash_of(cluster, "full")
    cluster.edited("dtesnbatcher/full", '{"spec": {"batching": {"maxBatchSize": 64}}}')
    wanted = until(lambda: (found := hash_of(cluster, "full")) != before and found, what="the settings")
    assert "64" in cluster.get("configmap/full")["data"]["batcher.yaml"]
    until(lambda: all(told(pod) == wanted for pod in pods_of(cluster, "full")), what="pods that are told")
    cluster.apply(batcher("full", injection={"enabled": True}), batcher("keda"), batcher("claim", replicas=1))
    gone = ("poddisruptionbudget/full", "networkpolicy/full", "podmonitor/full", "hpa/full", "scaledobject/keda")
    until(lambda: not any(cluster.exists(one) for one in gone), what="the end of what is no longer asked for")
    until(lambda: cluster.get("resourceclaimtemplates")["items"] == [], what="the end of the claim's template")
    cluster.until_ready("claim")


def hash_of(cluster: batchers.Cluster, name: str) -> str:
    return cluster.get(f"dtesnbatcher/{name}")["status"]["configHash"]


def told(pod: dict[str, Any]) -> str | None:
    return pod["metadata"].get("annotations", {}).get(names.ANNOTATION_CONFIG_HASH)


def pods_of(cluster: batchers.Cluster, name: str) -> list[dict[str, Any]]:
    return [one for one in cluster.get("pods")["items"] if one["metadata"]["labels"].get(names.LABEL_INSTANCE) == name]


def pods_are_injected(plane: ControlPlane, cluster: batchers.Cluster, running: Installed) -> None:
    lead_webhook_here(plane, running.webhook_port)
    until(lambda: authority(plane), what="the webhook's authority")

    def injected() -> bool:
        cluster.kubectl("delete", "pod/application", "--ignore-not-found", "--now")
        cluster.apply(application("application", "full"))
        return names.CONTAINER in json.dumps(cluster.get("pod/application")["spec"])

    until(injected, what="a pod with the sidecar")
    cluster.apply(application("lonely", "nobody"))  # the resource is asked for, and there is none
    assert names.CONTAINER not in json.dumps(cluster.get("pod/lonely")["spec"])


def application(name: str, resource: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {names.LABEL_INJECT: resource}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}


def granted_to(plane: ControlPlane) -> tuple[set[Right], dict[tuple[str, str], set[str]]]:
    """Every right of the operator's roles, and the names that some are narrowed to."""
    cluster_role = plane.get(f"clusterrole/{NAMESPACE}:{FULLNAME}")
    role = plane.get(f"role/{FULLNAME}", namespace=NAMESPACE)
    granted: set[Right] = set()
    named: dict[tuple[str, str], set[str]] = {}
    for rule in (*cluster_role["rules"], *role["rules"]):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted |= {(group, resource, verb) for verb in rule["verbs"]}
                if "resourceNames" in rule:
                    named.setdefault((group, resource), set()).update(rule["resourceNames"])
    return granted, named


def right_of(reference: dict[str, Any], verb: str) -> Right:
    resource = "/".join(reference[part] for part in ("resource", "subresource") if part in reference)
    return reference.get("apiGroup", ""), resource, verb


def test_the_operator_never_asks_for_what_it_may_not_do(played: Played) -> None:
    assert len(played.asked) > 100
    assert [f"{line['verb']} {line['requestURI']}" for line in played.asked if line["responseStatus"]["code"] in (401, 403)] == []


def test_every_right_that_the_chart_grants_is_used(played: Played) -> None:
    used = {right_of(line["objectRef"], line["verb"]) for line in played.asked if "objectRef" in line}
    assert played.granted - used == set()
    assert used - played.granted == set()


def test_of_secrets_and_webhook_configurations_the_operator_sees_its_own_alone(played: Played) -> None:
    assert set(played.named) == {
        ("", "secrets"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ("coordination.k8s.io", "leases"),
    }
    for (group, resource), allowed in played.named.items():
        asked = [line["objectRef"] for line in played.asked if line.get("objectRef", {}).get("resource") == resource]
        assert {one["name"] for one in asked if "name" in one and one.get("apiGroup", "") == group} == allowed
    assert not any(resource.startswith("secrets") and verb not in ("get", "update") for _, resource, verb in played.granted)
