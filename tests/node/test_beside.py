"""The sidecar beside an application: in a resource's own template, and injected into pods of somebody else's Deployment."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.batchers import Cluster
from tests.cluster.build import binary
from tests.cluster.control_plane import until
from tests.node.calls import pod_spec
from tests.node.resources import pods, ready, resource

# Asks at its first breath, goes on for seconds after it was told to end, and tries nothing twice.
APPLICATION = """
import signal, time, urllib.request
def ask():
    body, kind = b'{"input_data": "hello"}', {"Content-Type": "application/json"}
    request = urllib.request.Request("http://localhost:8080/dtesn/process", body, kind)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))
print("first", ask(), flush=True)
asked = 0
while not told or time.monotonic() < told[0] + 4:
    assert ask() == 200
    asked += bool(told)
    time.sleep(0.05)
print("last", ask(), "after", asked > 20, flush=True)
"""
COMMAND = ["python", "-c", APPLICATION]
SAID = "first 200\nlast 200 after True\n"


def application() -> dict[str, Any]:
    """The container."""
    found: dict[str, Any] = pod_spec("application", COMMAND)["containers"][0]
    return found


def test_beside_an_application_the_sidecar_is_there_before_it_and_until_after_it(cluster: Cluster) -> None:
    security = pod_spec("application", COMMAND)["securityContext"]
    cluster.apply(resource(replicas=1, template={"spec": {"securityContext": security, "containers": [application()]}}))
    cluster.until_ready()
    (found,) = pods(cluster)
    assert [one["name"] for one in found["spec"]["initContainers"]] == ["dtesn-sidecar"]
    with _output(cluster, found["metadata"]["name"]) as said:
        cluster.kubectl("delete", "pod", found["metadata"]["name"], "--wait=false")
    assert said == [SAID]
    assert _restarts(found) == 0


def test_a_labelled_pod_of_a_plain_deployment_gets_the_sidecar_which_serves_it_from_its_first_to_its_last_breath(cluster: Cluster) -> None:
    cluster.apply(resource(replicas=0, injection={"enabled": True}))
    until(lambda: cluster.exists("configmap/demo"), what="the resource's settings")
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "shop"}},
                "template": {
                    "metadata": {"labels": {"app": "shop", "dtesn.dev/inject": "demo"}},
                    "spec": {**pod_spec("application", COMMAND), "terminationGracePeriodSeconds": 60},
                },
            },
        }
    )
    found = until(lambda: next(iter(_ready_shops(cluster)), None), 90, what="a Ready pod of the Deployment")
    assert [one["name"] for one in found["spec"]["initContainers"]] == ["dtesn-sidecar"]
    with _output(cluster, found["metadata"]["name"]) as said:
        cluster.kubectl("delete", "deployment/shop", "--wait=false")
    assert said == [SAID]
    assert _restarts(found) == 0


def _ready_shops(cluster: Cluster) -> list[dict[str, Any]]:
    items = cluster.get("pods")["items"]
    return [pod for pod in items if pod["metadata"]["labels"].get("app") == "shop" and ready(pod)]


def _restarts(pod: dict[str, Any]) -> int:
    statuses = [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]
    return sum(one["restartCount"] for one in statuses)


@contextmanager
def _output(cluster: Cluster, pod: str) -> Iterator[list[str]]:
    """All that the application prints until its end, which the block brings about."""
    command = [str(binary("kubectl")), "--kubeconfig", str(cluster.plane.kubeconfig), "logs", "--follow", "--namespace", cluster.namespace]
    said: list[str] = []
    with subprocess.Popen([*command, pod, "--container=application"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()  # so that the rest is followed and not asked for when it is too late
            yield said
            said.append(first + process.communicate(timeout=90)[0])
        finally:
            process.kill()
