"""The operator and the sidecars of its pods: real `dtesn-sidecar` processes stand behind kwok's pods, and the tests are their kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cluster.batchers import Cluster, batcher
from tests.cluster.control_plane import ControlPlane, until
from tests.cluster.operator_process import Replica, replica
from tests.integration.http_server import running

from dtesn_api import names


class Kubelet:
    """Runs a sidecar for each of a resource's pods, and mounts the ConfigMap as a kubelet does: again when it is told to."""

    def __init__(self, cluster: Cluster, operator: Replica, folder: Path, stack: ExitStack) -> None:
        self._cluster, self._operator, self._folder, self._stack = cluster, operator, folder, stack

    def start(self, name: str = "demo") -> None:
        """Start them, and tell the operator where."""
        urls = {}
        for pod in self.pods(name):
            (self._folder / pod).mkdir()
            self.mount(pod, name)
            server = self._stack.enter_context(running({}, "--config", str(self._folder / pod / names.CONFIG_FILE)))
            urls[pod] = server.url
        self._operator.tell(**urls)

    def pods(self, name: str = "demo") -> list[str]:
        """The names of a resource's pods."""
        selector = f"{names.LABEL_INSTANCE}={name}"
        return self._cluster.kubectl("get", "pods", "-l", selector, "-o", "jsonpath={.items[*].metadata.name}").split()

    def mount(self, pod: str, name: str = "demo") -> None:
        """Bring the pod's file up to date."""
        text = self._cluster.get(f"configmap/{name}")["data"][names.CONFIG_FILE]
        part = self._folder / pod / "part"
        part.write_text(text)
        part.rename(self._folder / pod / names.CONFIG_FILE)

    def told(self, pod: str) -> str:
        """The hash that the pod bears."""
        found: str = self._cluster.get(f"pod/{pod}")["metadata"].get("annotations", {}).get(names.ANNOTATION_CONFIG_HASH, "")
        return found


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("pods"), control_plane.kubeconfig, lease_namespace="default") as started:
        yield started


@pytest.fixture
def kubelet(cluster: Cluster, operator: Replica, tmp_path: Path) -> Iterator[Kubelet]:
    with ExitStack() as stack:
        yield Kubelet(cluster, operator, tmp_path, stack)


def test_settings_are_in_progress_until_every_ready_pod_reports_them(cluster: Cluster, kubelet: Kubelet) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    kubelet.start()
    generation = cluster.get("deployment/demo")["metadata"]["generation"]
    cluster.apply(batcher(batching={"maxBatchSize": 48}))
    cluster.until_condition("Progressing", "True", "ConfigInProgress")
    wanted = cluster.get("dtesnbatcher/demo")["status"]["configHash"]
    first, second = kubelet.pods()
    until(lambda: kubelet.told(first) == kubelet.told(second) == wanted, what="pods that are told")
    kubelet.mount(first)
    waits = until(lambda: (one := cluster.condition("Progressing"))["message"].startswith("1 of 2") and one, what="one that follows")
    assert waits["reason"] == "ConfigInProgress"
    kubelet.mount(second)
    cluster.until_condition("Progressing", "False", "UpToDate")
    assert cluster.get("deployment/demo")["metadata"]["generation"] == generation
    assert ("Normal", "SettingsInForce", "every ready pod has reported the present settings") in cluster.told()


def test_what_the_sidecars_say_of_themselves_is_in_the_status(cluster: Cluster, kubelet: Kubelet) -> None:
    cluster.apply(batcher(replicas=1))
    cluster.until_ready()
    assert cluster.condition("LoadAvailable")["status"] == "Unknown"
    kubelet.start()
    cluster.until_condition("LoadAvailable", "True", "FreshReading", seconds=60)
    observed = cluster.get("dtesnbatcher/demo")["status"]["observed"]
    assert 0.0 <= observed["load"] <= 1.0
    assert observed["batchSize"] >= 1
    assert observed["pending"] == 0


@pytest.mark.usefixtures("operator")
def test_a_pod_that_asked_for_the_sidecar_and_did_not_get_it_is_named(cluster: Cluster) -> None:
    container = {"name": "app", "image": "registry.example/app:1"}
    metadata = {"name": "shop", "labels": {names.LABEL_INJECT: "demo"}}
    cluster.apply(batcher(), {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}})
    found = cluster.until_condition("Degraded", "True", "InjectionMissed", seconds=60)
    assert found["message"] == "1 pods started without the sidecar that they ask for: shop; delete them to try again"
    cluster.until_ready()
    cluster.kubectl("delete", "pod/shop", "--wait=false", "--force")
    cluster.until_condition("Degraded", "False", "AsExpected", seconds=60)
