"""`dtesn-operator plan` against a real API server: what it foretells is what the operator then does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.batchers import Cluster, batcher
from tests.cluster.control_plane import until
from tests.cluster.operator_process import IMAGE, Replica, replica

from dtesn_operator.__main__ import main

OWNED = ("ServiceAccount", "ConfigMap", "Service", "Deployment")


@pytest.fixture
def cluster(control_plane: Any, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path) -> Iterator[Replica]:
    with replica(tmp_path, cluster.plane.kubeconfig, namespaces=[cluster.namespace], lease_namespace=cluster.namespace) as running:
        yield running


class Planned:
    """What the command printed as JSON, and its exit status."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.resources = {one["name"]: one for one in json.loads(text)["resources"]}

    def actions(self, name: str = "demo") -> dict[str, str]:
        """Action by kind, of the resource and of what it owns."""
        return {one["kind"]: one["action"] for one in self.resources[name]["objects"]}

    def fields(self, kind: str, name: str = "demo") -> dict[str, tuple[Any, Any]]:
        """Before and after of the changed fields of one object."""
        (found,) = [one for one in self.resources[name]["objects"] if one["kind"] == kind]
        return {field["text"]: (field["before"], field["after"]) for field in found["fields"]}

    def reasons(self, name: str = "demo") -> list[str]:
        """Of what it would be Degraded."""
        return [trouble["reason"] for trouble in self.resources[name]["troubles"]]


@pytest.fixture
def plan(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Plan manifests in the test's namespace."""

    def run(*manifests: dict[str, Any], arguments: tuple[str, ...] = ()) -> Planned:
        capsys.readouterr()
        text = _written(tmp_path, *manifests)
        options = ["--kubeconfig", str(cluster.plane.kubeconfig), "-n", cluster.namespace, "--image", IMAGE, "-o", "json"]
        options += ["--operator-namespace", cluster.namespace, "--detailed-exitcode", *arguments]
        status = main(["plan", str(text), *options])
        return Planned(status, capsys.readouterr().out)

    return run


def _written(folder: Path, *manifests: dict[str, Any]) -> Path:
    file = folder / "planned.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    return file


def _until_idle(cluster: Cluster, plan: Any, *manifests: dict[str, Any]) -> Planned:
    """Wait until nothing is left to do."""

    def idle() -> Planned | None:
        found: Planned = plan(*manifests)
        return found if found.status == 0 else None

    found: Planned = until(idle, what="nothing left to do")
    return found


def test_a_new_resource_and_all_that_it_would_own_are_created_and_nothing_is_written(cluster: Cluster, plan: Any) -> None:
    found = plan(batcher(), batcher("other", disruptionBudget={"enabled": True}))
    assert found.status == 2
    assert found.actions() == dict.fromkeys(("DTESNBatcher", *OWNED), "create")
    assert found.actions("other")["PodDisruptionBudget"] == "create"
    assert not cluster.exists("dtesnbatcher/demo")
    assert not cluster.exists("deployment/demo")


@pytest.mark.usefixtures("operator")
def test_what_is_foretold_is_what_the_operator_does(cluster: Cluster, plan: Any) -> None:
    full = {
        "disruptionBudget": {"enabled": True},
        "networkPolicy": {"enabled": True},
        "sidecar": {"env": [{"name": "EXTRA", "value": "1"}]},
    }
    cluster.apply(batcher(**full))
    cluster.until_ready()
    assert set(_until_idle(cluster, plan, batcher(**full)).actions().values()) == {"keep"}

    changed = batcher(
        batching={"maxBatchSize": 64}, networkPolicy={"enabled": True}, autoscaling={"enabled": True, "target": "cpu"}, sidecar={"env": []}
    )
    found = plan(changed)
    assert found.status == 2
    assert found.actions() == {
        "DTESNBatcher": "change",
        "ServiceAccount": "keep",
        "ConfigMap": "change",
        "NetworkPolicy": "keep",
        "Service": "keep",
        "Deployment": "change",
        "HorizontalPodAutoscaler": "create",
        "PodDisruptionBudget": "delete",
    }
    assert found.fields("DTESNBatcher")["spec.batching.maxBatchSize"][1] == 64
    env = "spec.template.spec.containers[dtesn-sidecar].env[EXTRA]"
    fields = found.fields("Deployment")
    assert fields.pop(env) == ({"name": "EXTRA", "value": "1"}, None)
    assert fields.keys() == {"metadata.annotations['dtesn.dev/template-hash']"}
    cluster.apply(changed)
    until(lambda: cluster.exists("hpa/demo") and not cluster.exists("pdb/demo"), what="the objects foretold")
    assert set(_until_idle(cluster, plan, changed).actions().values()) == {"keep"}


@pytest.mark.usefixtures("operator")
def test_what_was_changed_by_hand_is_foretold_to_come_back(cluster: Cluster, plan: Any) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    cluster.apply(batcher(paused=True))
    cluster.until_condition("Paused", "True", "Paused")
    cluster.edited("service/demo", '{"spec": {"ports": [{"name": "http", "port": 81, "targetPort": "dtesn-http"}]}}')
    cluster.edited("deployment/demo", '{"spec": {"replicas": 7}}')
    cluster.kubectl("delete", "serviceaccount/demo")
    paused = plan(batcher(paused=True))
    assert (paused.status, paused.actions()) == (0, {"DTESNBatcher": "keep"})
    assert paused.resources["demo"]["paused"]
    found = plan(batcher())
    assert found.actions() == {
        "DTESNBatcher": "change",
        "ServiceAccount": "create",
        "ConfigMap": "keep",
        "Service": "change",
        "Deployment": "change",
    }
    assert found.fields("Service") == {"spec.ports[http].port": (81, 80)}
    assert found.fields("Deployment") == {"spec.replicas": (7, 2)}


@pytest.mark.usefixtures("operator")
def test_what_an_autoscaler_has_set_stays_where_the_file_says_nothing_of_it(cluster: Cluster, plan: Any) -> None:
    cluster.apply(batcher())
    cluster.kubectl("scale", "dtesnbatcher/demo", "--replicas=5")
    cluster.until_ready()
    assert _until_idle(cluster, plan, batcher()).actions()["Deployment"] == "keep"
    assert plan(batcher(replicas=3)).fields("DTESNBatcher") == {"spec.replicas": (5, 3)}


def test_a_field_that_server_side_apply_no_longer_has_goes(cluster: Cluster, plan: Any) -> None:
    applied = yaml.safe_dump(batcher(batching={"maxBatchSize": 64}, replicas=3))
    cluster.kubectl("apply", "--server-side", "-f", "-", data=applied)
    assert plan(batcher(replicas=3)).fields("DTESNBatcher").keys() == {"spec.batching.maxBatchSize"}
    assert plan(batcher(replicas=3), arguments=("--field-manager", "somebody")).fields("DTESNBatcher") == {}


def test_a_foreign_object_of_that_name_is_a_conflict_and_the_deployment_waits(cluster: Cluster, plan: Any) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}, "spec": {"ports": [{"port": 7}]}})
    found = plan(batcher())
    assert found.status == 1
    assert (found.actions()["Service"], found.actions()["Deployment"]) == ("conflict", "wait")
    assert found.reasons() == ["NameConflict"]


def test_a_kind_that_is_not_installed_and_a_template_that_is_none_are_told(cluster: Cluster, plan: Any) -> None:
    monitored, odd = batcher(monitoring={"podMonitor": True}), batcher("odd", template={"spec": {"nodeSelektor": {"a": "b"}}})
    found = plan(monitored, odd)
    assert found.status == 1
    assert found.reasons() == ["KindMissing"]
    assert found.reasons("odd") == ["TemplateInvalid"]
    assert "nodeSelektor" in found.resources["odd"]["troubles"][0]["message"]


def _said(cluster: Cluster, capsys: pytest.CaptureFixture[str], file: Path, *arguments: str, kubeconfig: Path | None = None) -> str:
    capsys.readouterr()
    given = kubeconfig or cluster.plane.kubeconfig
    assert main(["plan", str(file), "--kubeconfig", str(given), *arguments]) == 1
    return capsys.readouterr().err


def test_a_namespace_that_there_is_not_is_told_with_what_to_do(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _said(cluster, capsys, _written(tmp_path, batcher()), "-n", "nowhere")
    assert 'namespaces "nowhere" not found; create it first' in said


def test_what_the_api_server_refuses_is_told_in_its_words(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    policy["spec"] = {"hard": {"count/dtesnbatchers.dtesn.dev": "0"}}
    cluster.apply(policy)
    until(lambda: cluster.get("resourcequota/none").get("status", {}).get("hard"), what="the quota")
    said = _said(cluster, capsys, _written(tmp_path, batcher()), "-n", cluster.namespace)
    assert "exceeded quota" in said


def test_a_right_that_is_missing_is_named(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.kubectl("create", "serviceaccount", "reader")
    token = cluster.kubectl("create", "token", "reader").strip()
    kubeconfig = cluster.plane.write_kubeconfig(f"reader-{cluster.namespace}", {"token": token})
    said = _said(cluster, capsys, _written(tmp_path, batcher()), "-n", cluster.namespace, kubeconfig=kubeconfig)
    assert "cannot get resource" in said
    assert "ask for this right" in said


def test_without_credentials_one_is_told_to_log_in(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kubeconfig = cluster.plane.write_kubeconfig(f"nobody-{cluster.namespace}", {"token": "ended"})
    said = _said(cluster, capsys, _written(tmp_path, batcher()), "-n", cluster.namespace, kubeconfig=kubeconfig)
    assert "log in again" in said
