"""The life of a resource on a real API server, with the real operator beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256

import pytest
from tests.cluster.audit import Write, writes
from tests.cluster.batchers import Cluster, batcher
from tests.cluster.control_plane import ControlPlane, until
from tests.cluster.operator_process import IMAGE, Replica, replica

from dtesn_api import names

OBJECTS = ("serviceaccount/demo", "configmap/demo", "deployment/demo", "service/demo")


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("life"), control_plane.kubeconfig, lease_namespace="default") as running:
        yield running


@pytest.mark.usefixtures("operator")
def test_a_resource_becomes_a_running_batcher(cluster: Cluster) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    for one in OBJECTS:
        owner = cluster.get(one)["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("DTESNBatcher", "demo", True)
    status = cluster.get("dtesnbatcher/demo")["status"]
    assert status["readyReplicas"] == status["replicas"] == 2
    assert status["url"] == f"http://demo.{cluster.namespace}.svc"
    assert status["image"] == IMAGE
    assert cluster.condition("Degraded")["status"] == "False"
    assert cluster.condition("LoadAvailable")["reason"] == "PodsSilent"
    assert "finalizers" not in cluster.get("dtesnbatcher/demo")["metadata"]
    assert cluster.told() == []


@pytest.mark.usefixtures("operator")
def test_deleting_the_resource_deletes_everything_that_it_owns(cluster: Cluster) -> None:
    cluster.apply(batcher(), batcher("stays"))
    cluster.until_ready()
    cluster.kubectl("delete", "dtesnbatcher/demo")
    until(lambda: not any(cluster.exists(one) for one in OBJECTS), what="the end of what it owns")
    cluster.until_ready("stays")


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("what", OBJECTS)
def test_an_owned_object_that_is_deleted_comes_back(cluster: Cluster, what: str) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    uid = cluster.get(what)["metadata"]["uid"]
    cluster.kubectl("delete", what, "--wait=false")
    until(lambda: cluster.exists(what) and cluster.get(what)["metadata"]["uid"] != uid, what=f"a new {what}")
    cluster.until_ready()


@pytest.mark.usefixtures("operator")
def test_a_field_that_is_edited_by_hand_comes_back_and_what_others_add_stays(cluster: Cluster) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    cluster.edited("service/demo", '{"metadata": {"annotations": {"team": "shop"}}, "spec": {"ports": [{"name": "http", "port": 81}]}}')
    until(lambda: [port["port"] for port in cluster.get("service/demo")["spec"]["ports"]] == [80], what="the port")
    repaired = ("Normal", "Repaired", "the Service demo was changed, and is as before; change the DTESNBatcher instead")
    until(lambda: repaired in cluster.told(), what="an Event that says so")
    assert cluster.get("service/demo")["metadata"]["annotations"]["team"] == "shop"
    cluster.edited("configmap/demo", '{"data": {"batcher.yaml": "batching: {maxBatchSize: 1}"}}')
    until(lambda: "maxBatchSize" not in cluster.get("configmap/demo")["data"]["batcher.yaml"], what="the settings")


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("label", ["managed-by", "instance"])
def test_a_label_by_which_we_know_an_object_comes_back_too(cluster: Cluster, label: str) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    before = cluster.get("service/demo")["metadata"]
    cluster.kubectl("label", "service/demo", f"app.kubernetes.io/{label}=me", "--overwrite")
    until(lambda: cluster.get("service/demo")["metadata"]["labels"] == before["labels"], what="the label")
    assert cluster.get("service/demo")["metadata"]["uid"] == before["uid"]


@pytest.mark.usefixtures("operator")
def test_a_field_that_is_no_longer_wanted_goes(cluster: Cluster) -> None:
    cluster.apply(batcher(sidecar={"env": [{"name": "EXTRA", "value": "1"}]}))
    cluster.until_ready()
    assert "EXTRA" in json.dumps(cluster.get("deployment/demo")["spec"])
    cluster.apply(batcher(sidecar={"env": []}))
    until(lambda: "EXTRA" not in json.dumps(cluster.get("deployment/demo")["spec"]), what="the end of the variable")
    cluster.until_ready()


@pytest.mark.usefixtures("operator")
def test_a_batching_field_reaches_the_config_map_without_a_rollout_and_an_image_rolls_out(cluster: Cluster) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    before = cluster.get("deployment/demo")["metadata"]["generation"]
    cluster.apply(batcher(batching={"maxBatchSize": 64}))
    until(lambda: '"maxBatchSize": 64' in cluster.get("configmap/demo")["data"]["batcher.yaml"], what="the settings")
    wanted = sha256(cluster.get("configmap/demo")["data"]["batcher.yaml"].encode()).hexdigest()
    until(lambda: cluster.get("dtesnbatcher/demo")["status"]["configHash"] == wanted, what="the hash of the settings")
    until(lambda: all(_told(pod) == wanted for pod in cluster.get("pods")["items"]), what="pods that are told")
    assert cluster.get("deployment/demo")["metadata"]["generation"] == before
    cluster.apply(batcher(image={"repository": "registry.example/other", "tag": "2"}))
    until(lambda: cluster.get("deployment/demo")["metadata"]["generation"] > before, what="a rollout")
    cluster.until_ready()
    assert cluster.get("dtesnbatcher/demo")["status"]["image"] == "registry.example/other:2"


def _told(pod: dict) -> str | None:
    return pod["metadata"].get("annotations", {}).get("dtesn.dev/config-hash")


@pytest.mark.usefixtures("operator")
def test_a_paused_resource_is_left_alone_until_it_is_resumed(cluster: Cluster) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    cluster.apply(batcher(paused=True))
    cluster.until_condition("Paused", "True", "Paused")
    cluster.kubectl("delete", "service/demo")
    cluster.apply(batcher("other"))
    cluster.until_ready("other")  # the operator has been at work since
    assert not cluster.exists("service/demo")
    cluster.apply(batcher(paused=False))
    until(lambda: cluster.exists("service/demo"), what="the service")
    cluster.until_condition("Paused", "False", "Active")


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("kind", ["Service", "ServiceAccount", "ConfigMap"])
def test_a_foreign_object_of_the_same_name_is_untouched_and_the_resource_degraded(cluster: Cluster, kind: str) -> None:
    foreign = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "demo", "labels": {"mine": "yes"}}}
    if kind == "Service":
        foreign["spec"] = {"ports": [{"port": 7}]}
    cluster.apply(foreign)
    before = cluster.get(f"{kind}/demo")
    cluster.apply(batcher())
    found = cluster.until_condition("Degraded", "True", "NameConflict")
    assert f"the {kind} demo exists and is not this resource's" in found["message"]
    cluster.kubectl("delete", "dtesnbatcher/demo")
    until(lambda: not cluster.exists("deployment/demo"), what="the end of the deployment")
    assert cluster.get(f"{kind}/demo") == before


@pytest.mark.usefixtures("operator")
def test_the_default_service_account_is_never_taken_over(cluster: Cluster) -> None:
    until(lambda: cluster.exists("serviceaccount/default"))
    before = cluster.get("serviceaccount/default")
    cluster.apply(batcher("default"))
    cluster.until_condition("Degraded", "True", "NameConflict", name="default")
    assert cluster.get("serviceaccount/default") == before


@pytest.mark.usefixtures("operator")
def test_autoscaling_switched_on_and_off_at_five_replicas_never_passes_another_number(cluster: Cluster) -> None:
    cluster.apply(batcher(replicas=5))
    cluster.until_ready()
    seen = {_replicas(cluster)}

    def until_hpa(there: bool) -> None:
        def switched() -> bool:
            seen.add(_replicas(cluster))
            return cluster.exists("hpa/demo") == there

        until(switched, what=f"autoscaler {'there' if there else 'gone'}")

    for _ in range(2):
        cluster.edited(
            "dtesnbatcher/demo", '{"spec": {"autoscaling": {"enabled": true, "minReplicas": 5, "maxReplicas": 9, "target": "cpu"}}}'
        )
        until_hpa(True)
        assert cluster.get("hpa/demo")["spec"]["scaleTargetRef"]["kind"] == "DTESNBatcher"
        cluster.edited("dtesnbatcher/demo", '{"spec": {"autoscaling": {"enabled": false}}}')
        until_hpa(False)
    cluster.until_ready()
    assert seen | {_replicas(cluster)} == {5}


def _replicas(cluster: Cluster) -> int:
    found: int = cluster.get("deployment/demo")["spec"]["replicas"]
    return found


@pytest.mark.usefixtures("operator")
def test_kubectl_scale_changes_the_pods(cluster: Cluster) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    cluster.kubectl("scale", "dtesnbatcher/demo", "--replicas=3")
    until(lambda: cluster.get("dtesnbatcher/demo")["status"].get("readyReplicas") == 3, what="three pods")


@pytest.mark.usefixtures("operator")
def test_everything_that_can_be_asked_for_is_made(cluster: Cluster) -> None:
    cluster.apply(
        batcher(disruptionBudget={"enabled": True}, networkPolicy={"enabled": True}, autoscaling={"enabled": True, "target": "cpu"})
    )
    for one in ("pdb/demo", "networkpolicy/demo", "hpa/demo"):
        until(lambda one=one: cluster.exists(one), what=one)
    cluster.apply(batcher(disruptionBudget={"enabled": False}, networkPolicy={"enabled": False}, autoscaling={"enabled": False}))
    for one in ("pdb/demo", "networkpolicy/demo", "hpa/demo"):
        until(lambda one=one: not cluster.exists(one), what=f"the end of {one}")


@pytest.mark.usefixtures("operator")
def test_a_device_claim_is_made_anew_where_it_changes_since_its_spec_cannot(cluster: Cluster) -> None:
    def claims() -> list[str]:
        """The claim templates that there are, and the one that the pods use."""
        found = [one["metadata"]["name"] for one in cluster.get("resourceclaimtemplates")["items"]]
        used = cluster.get("deployment/demo")["spec"]["template"]["spec"]["resourceClaims"][0]["resourceClaimTemplateName"]
        return sorted({*found, used})

    cluster.apply(batcher(gpu={"count": 1, "deviceClassName": "gpu.example.com"}))
    until(lambda: cluster.exists("deployment/demo"), what="a deployment")
    (before,) = claims()
    cluster.apply(batcher(gpu={"count": 2, "deviceClassName": "gpu.example.com"}))
    until(lambda: len(found := claims()) == 1 and found != [before], what="another claim template alone")


@pytest.mark.usefixtures("operator")
def test_once_all_is_as_wanted_nothing_is_written(cluster: Cluster) -> None:
    full = {
        "sidecar": {"resources": {"requests": {"cpu": "0.5", "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1024Mi"}}},
        "disruptionBudget": {"enabled": True},
        "networkPolicy": {"enabled": True},
        "autoscaling": {"enabled": True, "target": "cpu"},
    }
    cluster.apply(batcher(**full))
    cluster.until_ready()
    until(lambda: cluster.exists("hpa/demo"))
    cluster.apply(batcher("poke"))
    cluster.until_ready("poke")

    def written() -> list[Write]:
        ours = [one for one in writes(cluster.plane, cluster.namespace) if one.agent == names.FIELD_MANAGER and one.name == "demo"]
        return [one for one in ours if one.resource != "dtesnbatchers/status"]

    until(lambda: len(cluster.get("pods")["items"]) >= 3)
    before = written()
    assert before
    cluster.kubectl("label", "service/demo", "team=shop")  # events that lead to reconciles
    cluster.kubectl("label", "deployment/demo", "team=shop")
    cluster.apply(batcher("third"))
    cluster.until_ready("third")
    assert written() == before
