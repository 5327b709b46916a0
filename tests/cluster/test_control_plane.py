"""The test cluster itself: what the other tests of this folder take for granted."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import build
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ControlPlane, until
from tests.cluster.processes import Daemon

TINY = build.Module("tiny", {"tiny": "example.test/tiny/cmd"}, "a test", "a second")


def deployment(name: str, replicas: int = 2) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}},
        },
    }


def test_a_deployment_becomes_ready_on_fake_nodes(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(deployment("web"), namespace=namespace)
    until(lambda: control_plane.get("deployment/web", namespace=namespace)["status"].get("readyReplicas") == 2, what="two ready replicas")


def test_what_a_deleted_object_owns_goes_with_it(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(deployment("web"), namespace=namespace)
    until(lambda: len(control_plane.get("pods", namespace=namespace)["items"]) == 2)
    control_plane.kubectl("delete", "deployment/web", "--namespace", namespace)
    until(lambda: control_plane.get("pods,replicasets", namespace=namespace)["items"] == [], what="no pods and replica sets")


def test_server_side_apply_keeps_what_another_manager_owns(control_plane: ControlPlane, namespace: str) -> None:
    def applied(manager: str, key: str) -> None:
        data = f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: shared}}, data: {{{key}: x}}}}"
        control_plane.kubectl("apply", "--server-side", "--field-manager", manager, "--namespace", namespace, "-f", "-", data=data)

    applied("one", "a")
    applied("other", "b")
    assert control_plane.get("configmap/shared", namespace=namespace)["data"] == {"a": "x", "b": "x"}


def test_every_request_is_in_the_audit_log(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "configmap", "seen", "--namespace", namespace)
    asked = f'"requestURI":"/api/v1/namespaces/{namespace}/configmaps?fieldManager=kubectl-create'
    assert asked in control_plane.audit.read_text()


def test_a_program_that_ends_too_early_shows_the_end_of_its_log(tmp_path: Path) -> None:
    daemon = Daemon("broken", ["sh", "-c", "echo no such store; exit 1"], tmp_path)
    with pytest.raises(RuntimeError, match=r"broken ended(.|\n)*no such store"):
        daemon.until(lambda: False)


def test_programs_die_with_their_starter(tmp_path: Path) -> None:
    starter = multiprocessing.get_context("spawn").Process(target=_start_and_be_killed, args=(tmp_path,))
    starter.start()
    starter.join()
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not _alive(pid), 10, what="the end of the program")


def _start_and_be_killed(folder: Path) -> None:
    daemon = Daemon("sleeper", ["sleep", "600"], folder)
    (folder / "pid").write_text(str(daemon.pid))
    subprocess.run(["sh", "-c", "kill -KILL $PPID"], check=False)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


# -- building ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> build.Module:
    """A Go module whose dependency is one line, in a cache of its own."""
    source = tmp_path / "go" / "tiny"
    source.mkdir(parents=True)
    (source / "go.mod").write_text(
        "module example.test/tests\n\ngo 1.24\n\nrequire example.test/tiny v1.2.3\n\nreplace example.test/tiny => ./dependency\n"
    )
    (source / "go.sum").touch()
    (source / "dependency" / "cmd").mkdir(parents=True)
    (source / "dependency" / "go.mod").write_text("module example.test/tiny\n")
    (source / "dependency" / "cmd" / "main.go").write_text('package main\n\nfunc main() { println("tiny") }\n')
    monkeypatch.setattr(build, "MODULES", tmp_path / "go")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_environment", lambda: {**_plain_environment(), "GOFLAGS": "-mod=mod"})
    return TINY


def _plain_environment() -> dict[str, str]:
    """With the cache of compiled packages that other builds have: only the programs are this test's own."""
    compiled = os.environ.get("GOCACHE") or str(Path.home() / ".cache" / "go-build")
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOPROXY": "off", "GOCACHE": compiled}


def test_a_program_is_built_once_and_kept_by_version(tiny: build.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build.built(tiny)
    assert folder.name.startswith("tiny-v1.2.3-")
    assert subprocess.run([folder / "tiny"], capture_output=True, text=True, check=True).stderr == "tiny\n"
    monkeypatch.setattr(build, "go", lambda: "/nonexistent/go")
    assert build.built(tiny) == folder


def test_a_build_that_was_killed_leaves_nothing_that_is_used(tiny: build.Module) -> None:
    half = build.cache_folder() / f"tiny-v1.2.3-{build._fingerprint(tiny)}.part-1"
    half.mkdir(parents=True)
    assert (build.built(tiny) / "tiny").is_file()
    assert not half.exists()


def test_a_build_that_fails_says_why(tiny: build.Module) -> None:
    (tiny.folder / "dependency" / "cmd" / "main.go").write_text("package main\n\nfunc main() { missing() }\n")
    with pytest.raises(build.MissingPrerequisite, match="undefined: missing"):
        build.built(tiny)


def test_without_go_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    build.go.cache_clear()
    monkeypatch.setattr(build, "GO_LEAST", (99, 0))
    with pytest.raises(build.MissingPrerequisite, match=r"Go >= 99\.0 is needed.*install"):
        build.go()
    build.go.cache_clear()


def test_assets_of_ones_own_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etcd").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert build.binary("etcd") == tmp_path / "etcd"


def test_assets_that_are_no_folder_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "/nonexistent/assets")
    with pytest.raises(build.MissingPrerequisite, match="KUBEBUILDER_ASSETS is /nonexistent/assets, which is no folder"):
        build.binary("etcd")


def test_a_cluster_without_fake_nodes_is_refused_with_what_to_start_instead(control_plane: ControlPlane, tmp_path: Path) -> None:
    with ControlPlane.started(tmp_path / "bare", controllers=False) as bare:
        with pytest.raises(build.MissingPrerequisite, match=r"no fake nodes of kwok's.*make cluster-up"):
            Cluster.given(bare.kubeconfig, tmp_path)
        given = Cluster.given(control_plane.kubeconfig, tmp_path)
    assert given.get("nodes")["items"]


def test_a_program_that_nothing_builds_is_named() -> None:
    with pytest.raises(ValueError, match="no module builds minikube; there are etcd, helm"):
        build.binary("minikube")
