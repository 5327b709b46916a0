"""Releases of the chart on a real API server: install, upgrade, rollback, uninstall, again; the admission policy; `helm test`."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import batchers
from tests.cluster.batchers import batcher
from tests.cluster.chart import (
    CI,
    FULLNAME,
    NAMESPACE,
    RELEASE,
    Helm,
    HelmFailed,
    audited,
    authority,
    kubeconfig_of,
    operator,
)
from tests.cluster.control_plane import CRDS, ControlPlane, until
from tests.cluster.definitions import CERT_MANAGER, POD_MONITOR
from tests.cluster.processes import Daemon, free_port

WARNED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
CRD = "crd/dtesnbatchers.dtesn.dev"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster to which the resource's definition comes with the chart."""
    first = [*CERT_MANAGER.files(), *POD_MONITOR.files()]
    with ControlPlane.started(tmp_path_factory.mktemp("releases"), first=first) as started:
        for name in (NAMESPACE, "team-a", "team-b"):
            started.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": WARNED}})
        yield started


@pytest.fixture
def helm(plane: ControlPlane, tmp_path: Path) -> Iterator[Helm]:
    """helm, whose release is gone after the test."""
    found = Helm(tmp_path / "helm", plane.kubeconfig)
    yield found
    found.uninstall()


@pytest.fixture
def shop(plane: ControlPlane) -> Iterator[batchers.Cluster]:
    """A restricted namespace for resources."""
    name = f"shop-{free_port()}"
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": WARNED}})
    yield batchers.Cluster(plane, name)
    plane.delete_namespace(name)


def pods(shop: batchers.Cluster) -> list[tuple[str, str, str]]:
    """What a restart would change: names, UIDs and images of a resource's pods."""
    found = shop.get("pods")["items"]
    return sorted((one["metadata"]["name"], one["metadata"]["uid"], one["spec"]["containers"][0]["image"]) for one in found)


def of_the_release(plane: ControlPlane) -> list[str]:
    """Whatever bears the release's label, in all namespaces."""
    kinds = (
        "deployments,services,serviceaccounts,secrets,configmaps,poddisruptionbudgets,roles,rolebindings,clusterroles,clusterrolebindings,"
        "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,customresourcedefinitions"
    )
    found = plane.get(kinds, "--all-namespaces", f"--selector=app.kubernetes.io/instance={RELEASE}")["items"]
    return sorted(f"{one['kind']}/{one['metadata']['name']}" for one in found)


def test_a_release_is_upgraded_rolled_back_uninstalled_and_installed_again_and_no_pod_of_a_resource_restarts(
    plane: ControlPlane, helm: Helm, shop: batchers.Cluster, tmp_path: Path
) -> None:
    notes = helm.install(values={"image": {"tag": "1"}})
    assert "is installed in dtesn-system and reconciles DTESNBatchers in all namespaces" in notes
    assert plane.get(f"deployment/{FULLNAME}", namespace=NAMESPACE)["status"]["availableReplicas"] == 2
    until(lambda: "targetBatchSize" in plane.kubectl("explain", "dtesnbatcher.spec.batching").stdout, what="the definition, published")
    with operator(plane, tmp_path):
        shop.apply(batcher())
        shop.until_ready()
        bundle = until(lambda: authority(plane), what="the webhook's authority")
    before, generation = pods(shop), shop.get("deployment/demo")["metadata"]["generation"]
    assert {image for _, _, image in before} == {"dtesn-batcher:1"}

    def unchanged() -> None:
        """With the operator as installed now, the resource is as it was."""
        with operator(plane, tmp_path):
            shop.apply(batcher("poke", replicas=0))
            until(lambda: shop.condition("Progressing", "poke").get("status") == "False", what="a look of the operator")
            shop.edited("service/demo", '{"metadata": {"labels": {"app.kubernetes.io/name": "nobody"}}}')
            until(lambda: shop.get("service/demo")["metadata"]["labels"]["app.kubernetes.io/name"] == "dtesn-batcher")
            shop.kubectl("delete", "dtesnbatcher/poke")
            shop.until_ready()
        assert pods(shop) == before
        assert shop.get("deployment/demo")["metadata"]["generation"] == generation
        assert shop.get("dtesnbatcher/demo")["status"]["image"] == "dtesn-batcher:1"
        assert authority(plane) == bundle

    newer = tmp_path / "newer"
    helm("package", str(helm.chart), "--version=9.0.0", "--app-version=9.0.0", f"--destination={newer}")
    Helm(helm.folder, plane.kubeconfig, newer / "dtesn-batcher-9.0.0.tgz").upgrade(values={"logLevel": "debug", "replicas": 3})
    (container,) = plane.get(f"deployment/{FULLNAME}", namespace=NAMESPACE)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "dtesn-batcher:9.0.0"
    unchanged()
    helm("rollback", RELEASE, "1", f"--namespace={NAMESPACE}", "--wait", "--timeout=60s")
    (container,) = plane.get(f"deployment/{FULLNAME}", namespace=NAMESPACE)["spec"]["template"]["spec"]["containers"]
    assert (container["image"], "--log-level=info" in container["args"]) == ("dtesn-batcher:1", True)
    unchanged()
    helm.uninstall()
    assert of_the_release(plane) == ["CustomResourceDefinition/dtesnbatchers.dtesn.dev"]
    assert pods(shop) == before
    helm.install(values={"image": {"tag": "2"}})
    bundle = ""  # the old one's key went with the release
    with operator(plane, tmp_path):
        shop.until_ready()
        shop.apply(batcher("after"))
        shop.until_ready("after")
        bundle = until(lambda: authority(plane), what="the webhook's authority")
    assert [one for one in pods(shop) if one[0].startswith("demo-")] == before
    assert shop.get("dtesnbatcher/after")["status"]["image"] == "dtesn-batcher:2"


def test_the_definition_and_its_resources_go_with_the_release_only_where_that_is_asked(
    plane: ControlPlane, helm: Helm, shop: batchers.Cluster
) -> None:
    helm.install()
    shop.apply(batcher())
    helm.uninstall()
    assert shop.exists("dtesnbatcher/demo")
    notes = helm.install(values={"crds": {"keep": False}})
    assert "WARNING: crds.keep is false" in notes
    helm.uninstall()
    assert plane.kubectl("get", CRD, check=False).returncode != 0


def test_a_definition_that_kubectl_applied_is_taken_over_where_that_is_asked(plane: ControlPlane, helm: Helm) -> None:
    plane.kubectl("delete", CRD, "--ignore-not-found")
    plane.kubectl("apply", *(f"--filename={file}" for file in CRDS))
    with pytest.raises(HelmFailed, match="invalid ownership metadata"):
        helm.install()
    helm.uninstall()
    helm.install("--take-ownership")
    assert "CustomResourceDefinition/dtesnbatchers.dtesn.dev" in of_the_release(plane)


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_a_strict_api_server_accepts_everything_that_values_of_ci_render(plane: ControlPlane, helm: Helm, file: Path) -> None:
    plane.kubectl("delete", CRD, "--ignore-not-found")
    manifests = helm.template(yaml.safe_load(file.read_text()))
    for one in manifests:  # nothing can be made in a namespace that is not there, and no pod of an account that is not
        if one["kind"] in ("Namespace", "ServiceAccount"):
            plane.apply(one, namespace=NAMESPACE)
    try:
        others = [one for one in manifests if one["kind"] not in ("Namespace", "ServiceAccount")]
        said = plane.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", data=yaml.safe_dump_all(others))
        assert len(said.stdout.splitlines()) == len(others)
        assert said.stderr == "", "such as a warning of Pod Security"
    finally:
        plane.kubectl("delete", "--filename=-", "--ignore-not-found", "--wait=false", data=yaml.safe_dump_all(manifests))


def test_a_second_release_for_some_namespaces_stands_beside_one_for_others(plane: ControlPlane, helm: Helm, tmp_path: Path) -> None:
    def of(namespace: str, **more: Any) -> dict[str, Any]:
        return {"scope": {"namespaces": [namespace]}, "webhook": {"enabled": False}, **more}

    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "second"}})
    helm.install(values=of("team-a"))
    helm.install(values=of("team-b", crds={"enabled": False}), namespace="second")
    try:
        a, b = (batchers.Cluster(plane, name) for name in ("team-a", "team-b"))
        with operator(plane, tmp_path / "a") as one, operator(plane, tmp_path / "b", namespace="second") as other:
            for team in (a, b):
                team.apply(batcher())
                team.until_ready()
        for running, namespace, foreign in ((one, "team-a", "team-b"), (other, "team-b", "team-a")):
            asked = audited(plane, running.user)
            assert {line["objectRef"]["namespace"] for line in asked if "objectRef" in line and line["verb"] == "create"} >= {namespace}
            assert [line for line in asked if line.get("objectRef", {}).get("namespace") == foreign] == []
            assert [line["requestURI"] for line in asked if line["responseStatus"]["code"] == 403] == []
    finally:
        for name in ("team-a", "team-b"):
            plane.kubectl("delete", "dtesnbatcher/demo", f"--namespace={name}", "--ignore-not-found")
        helm.uninstall(namespace="second")


@pytest.fixture
def authors(plane: ControlPlane, shop: batchers.Cluster) -> dict[str, Path]:
    """Kubeconfigs of two who may write DTESNBatchers in `shop` and in the operator's namespace; one may create Deployments too."""
    everything = {"apiGroups": ["dtesn.dev"], "resources": ["dtesnbatchers", "dtesnbatchers/scale"], "verbs": ["*"]}
    deployments = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}
    for name, rules in (("narrow", [everything]), ("wide", [everything, deployments])):
        plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace=shop.namespace)
        subject = {"kind": "ServiceAccount", "name": name, "namespace": shop.namespace}
        for namespace in (shop.namespace, NAMESPACE):
            head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": f"author-{name}"}}
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": f"author-{name}"}
            plane.apply(
                {**head, "kind": "Role", "rules": rules},
                {**head, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]},
                namespace=namespace,
            )
    return {name: kubeconfig_of(plane, shop.namespace, name) for name in ("narrow", "wide")}


def test_the_admission_policy_refuses_authors_without_deployment_rights_and_resources_beside_the_operator(
    plane: ControlPlane, helm: Helm, shop: batchers.Cluster, authors: dict[str, Path]
) -> None:
    helm.install()
    numbers = itertools.count(1)

    def does(who: str, *arguments: str, namespace: str = shop.namespace, data: str | None = None) -> str:
        """What kubectl says to this author: an empty text where it did it."""
        place = (f"--kubeconfig={authors[who]}", f"--namespace={namespace}")
        done = plane.kubectl(*place, *arguments, data=data, check=False)
        return done.stderr if done.returncode else ""

    def writes(who: str, name: str, namespace: str = shop.namespace, **spec: Any) -> str:
        return does(who, "apply", "--filename=-", namespace=namespace, data=json.dumps(batcher(name, **spec)))

    # With another spec each time: what was let in before the policy was in force may be written again as it is.
    until(lambda: "may not create Deployments" in writes("narrow", "probe", replicas=next(numbers)), what="the policy in force")
    user = f"system:serviceaccount:{shop.namespace}:narrow"
    assert f"a DTESNBatcher makes a Deployment, and {user} may not create Deployments in the namespace {shop.namespace}" in writes(
        "narrow", "refused"
    )
    assert writes("wide", "taken") == ""
    assert "may not create Deployments" in writes("narrow", "taken", replicas=7)
    assert does("narrow", "label", "dtesnbatcher/taken", "team=shop") == ""
    assert does("narrow", "scale", "dtesnbatcher/taken", "--replicas=3") == ""
    assert does("narrow", "delete", "dtesnbatcher/taken") == ""
    assert "the operator's own namespace, could run pods with the operator's rights" in writes("wide", "beside", NAMESPACE)
    with pytest.raises(RuntimeError, match="the operator's own namespace"):
        plane.apply(batcher("beside"), namespace=NAMESPACE)
    helm.upgrade(values={"admissionPolicy": {"enabled": False}})
    until(lambda: writes("narrow", "taken") == "", what="the end of the policy")


def test_helm_test_makes_a_resource_asks_it_and_removes_everything_again(plane: ControlPlane, helm: Helm, tmp_path: Path) -> None:
    helm.install()
    with operator(plane, tmp_path), a_sidecar(tmp_path) as port, played_pod(plane, tmp_path, port) as logs:
        said = helm("test", RELEASE, f"--namespace={NAMESPACE}", "--timeout=120s")
    assert "Phase:          Succeeded" in said, logs.read_text()
    assert "8 answers" in logs.read_text()
    assert plane.get("dtesnbatchers", "--all-namespaces")["items"] == []
    names = [one["metadata"]["name"] for one in plane.get("namespaces", "--selector=app.kubernetes.io/name=dtesn-check")["items"]]
    assert names == []
    assert plane.get("pods,serviceaccounts,roles", "--selector=app.kubernetes.io/name=dtesn-check", namespace=NAMESPACE)["items"] == []


def test_helm_test_fails_and_says_why_where_no_operator_runs(plane: ControlPlane, helm: Helm, tmp_path: Path) -> None:
    helm.install(values={"tests": {"timeoutSeconds": 10}})
    with a_sidecar(tmp_path) as port, played_pod(plane, tmp_path, port) as logs, pytest.raises(HelmFailed, match=f"{FULLNAME}-check"):
        helm("test", RELEASE, f"--namespace={NAMESPACE}", "--timeout=60s")
    assert "not within 10 s: it has no conditions: no operator has seen it" in logs.read_text()
    assert plane.get("dtesnbatchers", "--all-namespaces")["items"] == []


@contextmanager
def a_sidecar(folder: Path) -> Iterator[int]:
    """A real sidecar, of the model that the check asks for, which every Service of the cluster shall lead to."""
    port = free_port()
    file = folder / "batcher.yaml"
    file.write_text(yaml.safe_dump({"model": {"membraneDepth": 1, "esnSize": 32}, "sidecar": {"port": port}}))
    daemon = Daemon(
        "sidecar", [sys.executable, "-m", "dtesn_sidecar", "serve", "--host=127.0.0.1", f"--config={file}", f"--port={port}"], folder
    )
    try:
        yield port
    finally:
        daemon.stop()


@contextmanager
def played_pod(plane: ControlPlane, folder: Path, port: int) -> Iterator[Path]:
    """Plays the kubelet for the pod of `helm test`: runs what it says as its ServiceAccount, and tells how that ended.

    A proxy stands for the cluster's Services: whatever is asked of them, the sidecar on `port` answers.
    """
    name, log = f"{FULLNAME}-check", folder / "check.log"

    def play() -> None:
        pod = until(lambda: plane.get(f"pod/{name}", namespace=NAMESPACE), 60, what="the pod of helm test")
        until(lambda: plane.get(f"pod/{name}", namespace=NAMESPACE)["status"].get("phase") == "Running", what="kwok's part")
        (container,) = pod["spec"]["containers"]
        kubeconfig = kubeconfig_of(plane, NAMESPACE, pod["spec"]["serviceAccountName"])
        command = [sys.executable, "-m", "dtesn_operator", *container["command"][1:], *container["args"], f"--kubeconfig={kubeconfig}"]
        environment = {**os.environ, "http_proxy": f"http://127.0.0.1:{port}", "no_proxy": "127.0.0.1"}
        with log.open("wb") as file:
            code = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False, timeout=120).returncode
        ended = {"exitCode": code, "startedAt": None, "finishedAt": None}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [
                {"name": "check", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": {"terminated": ended}}
            ],
        }
        patch = (
            "patch",
            f"pod/{name}",
            f"--namespace={NAMESPACE}",
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
        )
        plane.kubectl(*patch)

    kubelet = threading.Thread(target=play)
    kubelet.start()
    try:
        yield log
    finally:
        kubelet.join()
