"""The builders beside the pod template: Deployment, Service, autoscalers, NetworkPolicy, budget, monitor."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.operator.specs import APPLICATION, CLUSTER, NAMES, batcher, kind_of, template_of

from dtesn_api import names
from dtesn_operator import kinds
from dtesn_operator.desired import Cluster, desired
from dtesn_operator.kinds import Kind, Manifest, ObjectKey, key_of
from dtesn_operator.resources.scaling import quantity
from dtesn_operator.resources.service import url


def spec_of(kind: Kind, spec: dict[str, Any], cluster: Cluster = CLUSTER) -> Manifest:
    return kind_of(desired(batcher(spec), cluster), kind)["spec"]  # type: ignore[no-any-return]


def test_a_key_is_kind_namespace_and_name() -> None:
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"}}
    assert key_of(manifest) == ObjectKey(kinds.DEPLOYMENT, "b", "a")
    with pytest.raises(KeyError):
        key_of(manifest | {"apiVersion": "apps/v1beta1"})


# -- Deployment ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "strategy", "wanted"),
    [
        (0, {}, (0, 1)),
        (1, {}, (1, 0)),
        (0, {"maxSurge": "50%"}, (0, "50%")),
        (0, {"maxSurge": 0}, (1, 0)),
        (0, {"maxUnavailable": 2}, (2, 1)),
        (1, {"maxUnavailable": 0}, (0, 1)),
        (1, {"maxUnavailable": "25%"}, ("25%", 0)),
        (1, {"maxSurge": 1}, (1, 1)),
        (1, {"maxUnavailable": 0, "maxSurge": 2}, (0, 2)),
    ],
)
def test_a_rolling_update_keeps_all_pods_or_with_gpus_frees_one_first(gpus: int, strategy: dict[str, Any], wanted: tuple[Any, Any]) -> None:
    found = spec_of(kinds.DEPLOYMENT, {"gpu": {"count": gpus}, "strategy": strategy})["strategy"]
    assert found == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": wanted[0], "maxSurge": wanted[1]}}


@pytest.mark.parametrize("scaled", [False, True])
def test_replicas_are_always_given_autoscaled_or_not(scaled: bool) -> None:
    assert spec_of(kinds.DEPLOYMENT, {"replicas": 5, "autoscaling": {"enabled": scaled}})["replicas"] == 5


# -- Service -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [[], [APPLICATION]])
def test_the_service_finds_the_sidecars_port_by_a_name_that_no_application_has(beside: list[Manifest]) -> None:
    result = desired(batcher({"template": {"spec": {"containers": beside}}, "service": {"type": "LoadBalancer", "port": 8000}}), CLUSTER)
    service = kind_of(result, kinds.SERVICE)["spec"]
    assert service["type"] == "LoadBalancer"
    assert service["ports"] == [{"name": "http", "port": 8000, "protocol": "TCP", "targetPort": "dtesn-http"}]


@pytest.mark.parametrize(("port", "wanted"), [(80, "http://demo.shop.svc"), (8000, "http://demo.shop.svc:8000")])
def test_the_url_is_that_of_the_service(port: int, wanted: str) -> None:
    assert url(batcher({"service": {"port": port}})) == wanted


# -- autoscalers ---------------------------------------------------------------------------------------------------------------

TARGET = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "demo"}


@pytest.mark.parametrize(
    ("autoscaling", "metric", "average"),
    [
        ({}, "dtesn_load_combined_ratio", "700m"),
        ({"value": 0.65}, "dtesn_load_combined_ratio", "650m"),
        ({"target": "pendingPerPod"}, "dtesn_pending_requests", "10"),
        ({"target": "pendingPerPod", "value": 2.5}, "dtesn_pending_requests", "2500m"),
    ],
)
def test_an_hpa_holds_the_pods_own_metric(autoscaling: dict[str, Any], metric: str, average: str) -> None:
    spec = spec_of(kinds.HORIZONTAL_POD_AUTOSCALER, {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 9, **autoscaling}})
    assert spec == {
        "scaleTargetRef": TARGET,
        "minReplicas": 2,
        "maxReplicas": 9,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": metric}, "target": {"type": "AverageValue", "averageValue": average}}}],
    }


def test_an_hpa_on_cpu_looks_at_the_sidecar_alone() -> None:
    (metric,) = spec_of(kinds.HORIZONTAL_POD_AUTOSCALER, {"autoscaling": {"enabled": True, "target": "cpu", "value": 0.8}})["metrics"]
    utilisation = {"type": "Utilization", "averageUtilization": 80}
    assert metric == {
        "type": "ContainerResource",
        "containerResource": {"name": "cpu", "container": "dtesn-sidecar", "target": utilisation},
    }


KEDA = {"enabled": True, "via": "keda", "prometheusUrl": "http://prometheus:9090"}


def test_keda_asks_prometheus_for_the_sum_over_the_resources_pods() -> None:
    spec = spec_of(kinds.SCALED_OBJECT, {"autoscaling": KEDA})
    assert spec["scaleTargetRef"] == TARGET
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 10)
    (trigger,) = spec["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"] == {
        "serverAddress": "http://prometheus:9090",
        "query": 'sum(dtesn_load_combined_ratio{namespace="shop",pod=~"demo-[a-z0-9]{1,10}-?[a-z0-9]{5}"})',
        "threshold": "0.7",
        "activationThreshold": "0",
    }


def test_to_zero_the_activation_query_alone_wakes_and_asks_for_one_pod() -> None:
    autoscaling = {**KEDA, "minReplicas": 0, "activationQuery": "sum(rate(requests[1m])) # of the gateway"}
    sizing, waking = spec_of(kinds.SCALED_OBJECT, {"autoscaling": autoscaling})["triggers"]
    assert float(sizing["metadata"]["activationThreshold"]) >= 1e9
    assert waking["metadata"]["query"] == "(sum(rate(requests[1m])) # of the gateway\n) > bool 0"
    assert (waking["metadata"]["threshold"], waking["metadata"]["activationThreshold"]) == ("1", "0")


def test_keda_on_cpu_needs_no_prometheus() -> None:
    (trigger,) = spec_of(kinds.SCALED_OBJECT, {"autoscaling": {"enabled": True, "via": "keda", "target": "cpu"}})["triggers"]
    assert trigger == {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70", "containerName": "dtesn-sidecar"}}


@pytest.mark.parametrize(("replicas", "minimum", "paused"), [(0, 1, True), (0, 0, False), (3, 1, False)])
def test_no_replicas_suspend_keda_unless_it_is_keda_that_scaled_to_zero(replicas: int, minimum: int, paused: bool) -> None:
    spec = {"replicas": replicas, "autoscaling": {**KEDA, "minReplicas": minimum, "activationQuery": "up"}}
    annotations = kind_of(desired(batcher(spec), CLUSTER), kinds.SCALED_OBJECT)["metadata"].get("annotations", {})
    assert annotations == ({"autoscaling.keda.sh/paused": "true"} if paused else {})


@pytest.mark.parametrize("via", ["hpa", "keda"])
def test_there_is_one_autoscaler_never_two(via: str) -> None:
    asked = {one["kind"] for one in desired(batcher({"autoscaling": {**KEDA, "via": via}}), CLUSTER).objects}
    assert len(asked & {"HorizontalPodAutoscaler", "ScaledObject"}) == 1


HASH = st.text("bcdfghjklmnpqrstvwxz2456789", min_size=1, max_size=10)
SUFFIX = st.text("bcdfghjklmnpqrstvwxz2456789", min_size=5, max_size=5)


@given(NAMES, HASH, SUFFIX)
def test_the_query_finds_the_resources_pods_however_long_their_names(name: str, replica_set: str, suffix: str) -> None:
    assert re.fullmatch(pattern_of(name), f"{name}-{replica_set}-"[:58] + suffix)


@given(NAMES, NAMES, HASH, SUFFIX)
def test_the_query_finds_no_pods_of_a_resource_whose_name_begins_alike(name: str, more: str, replica_set: str, suffix: str) -> None:
    other = f"{name}-{more}"[:52].rstrip("-")
    pod = f"{other}-{replica_set}-"[:58] + suffix
    assert other == name or not re.fullmatch(pattern_of(name), pod)


def pattern_of(name: str) -> str:
    result = desired(batcher({"autoscaling": KEDA}, name), CLUSTER)
    query = kind_of(result, kinds.SCALED_OBJECT)["spec"]["triggers"][0]["metadata"]["query"]
    found = re.search(r'pod=~"(.*)"', query)
    assert found is not None
    return found[1]


@given(st.floats(min_value=1e-9, max_value=1e6, exclude_min=True))
def test_a_quantity_is_no_less_than_the_value_and_within_a_thousandth(value: float) -> None:
    text = quantity(value)
    number = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    assert value - 1e-9 <= number <= value + 0.001


# -- NetworkPolicy -------------------------------------------------------------------------------------------------------------


def namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def test_the_sidecar_is_reached_from_the_peers_the_operator_and_prometheus() -> None:
    gateway = {"podSelector": {"matchLabels": {"role": "gateway"}}}
    spec = spec_of(kinds.NETWORK_POLICY, {"networkPolicy": {"enabled": True, "from": [gateway]}})
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [
        {"from": [gateway, namespace("dtesn-system"), namespace("monitoring")], "ports": [{"port": 8080, "protocol": "TCP"}]}
    ]
    assert "egress" not in spec


def test_the_applications_ports_stay_open_to_everyone() -> None:
    spec = {"networkPolicy": {"enabled": True}, "template": {"spec": {"containers": [APPLICATION]}}}
    assert spec_of(kinds.NETWORK_POLICY, spec)["ingress"][1] == {"ports": [{"port": 80, "protocol": "TCP"}]}


def test_nobody_to_let_in_is_not_everybody() -> None:
    spec = spec_of(kinds.NETWORK_POLICY, {"networkPolicy": {"enabled": True}}, Cluster(operator_image="a:1"))
    assert spec["ingress"] == []


def test_egress_is_restricted_only_if_asked_and_leaves_names_and_load_sources_open() -> None:
    sources = [{"name": f"s{i}", "url": url, "query": "up"} for i, url in enumerate(("https://a", "http://b:9090", "http://c:99999"))]
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    spec = spec_of(kinds.NETWORK_POLICY, {"networkPolicy": {"enabled": True, "egress": [rule]}, "load": {"prometheus": sources}})
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == [
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
        {"ports": [{"port": 443, "protocol": "TCP"}, {"port": 9090, "protocol": "TCP"}]},
        rule,
    ]


# -- budget and monitor --------------------------------------------------------------------------------------------------------


def test_one_pod_at_a_time_may_be_evicted_and_a_broken_one_always() -> None:
    spec = spec_of(kinds.POD_DISRUPTION_BUDGET, {"disruptionBudget": {"enabled": True}})
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_the_monitor_reads_the_port_that_the_pods_have() -> None:
    result = desired(batcher({"monitoring": {"podMonitor": True}}), CLUSTER)
    (endpoint,) = kind_of(result, kinds.POD_MONITOR)["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in template_of(result)["spec"]["containers"][0]["ports"]]
