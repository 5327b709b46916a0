"""What happens to requests while pods go: evicted, killed, out of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node import machine
from tests.node.calls import Caller
from tests.node.node import Node
from tests.node.resources import MODEL, answered, identities, pods, ready, served, url

# In the container's group, with a better score than the victim's: takes memory until the kernel has ended the victim, or after it this one.
TAKE = """
import os, pathlib, sys
victim, group = sys.argv[1:]
pathlib.Path(group, "cgroup.procs").write_text(str(os.getpid()))
taken = []
while os.path.exists(f"/proc/{victim}"):
    taken.append(b"x" * 2**20)
"""


def test_an_evicted_pod_loses_no_request(cluster: Cluster, caller: Caller, node: Node) -> None:
    before = served(cluster, caller, replicas=2, disruptionBudget={"enabled": True})
    name = before[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": cluster.namespace}}
    with caller.load(url(cluster), rate=60, model=MODEL) as outcome:
        until(lambda: all(answered(pod) > 30 for pod in before), what="requests at every pod")
        path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction"
        node.kubectl("create", "--raw", path, "-f", "-", data=json.dumps(eviction))
        until(lambda: not cluster.exists(f"pod/{name}"), 90, what="the pod's end")
        until(lambda: [ready(pod) for pod in pods(cluster)] == [True, True], 90, what="another pod in its place")
    outcome.assert_all_right()


def test_of_a_pod_that_is_killed_only_requests_on_their_way_to_it_fail_and_with_retries_none(
    cluster: Cluster, caller: Caller, node: Node
) -> None:
    before = served(cluster, caller, replicas=2)
    victim = before[0]
    with (
        caller.load(url(cluster), rate=40, model=MODEL, retries=True) as patient,
        caller.load(url(cluster), rate=40, model=MODEL) as hasty,
    ):
        until(lambda: all(answered(pod) > 30 for pod in before), what="requests at every pod")
        node.ctr("tasks", "kill", "--signal", "SIGKILL", container_of(victim))
        until(lambda: began_again(cluster), 90, what="the container started again")
        counted = answered(before[1])
        until(lambda: answered(before[1]) > counted + 50, what="requests at the other pod")
    patient.assert_all_right()
    assert hasty.wrong == []
    assert set(hasty.failed) <= {"ConnectionFailed"}, hasty.failures
    assert hasty.right == hasty.sent - sum(hasty.failed.values())
    assert identities(pods(cluster)).keys() == identities(before).keys()


def test_a_running_pod_that_the_kernel_kills_for_its_memory_is_named_and_is_ready_again_and_clients_with_retries_notice_nothing(
    cluster: Cluster, caller: Caller, node: Node
) -> None:
    before = served(cluster, caller, replicas=2, sidecar={"resources": {"limits": {"memory": "256Mi"}}})
    victim = before[0]["metadata"]["name"]
    with caller.load(url(cluster), rate=40, model=MODEL, retries=True) as patient:
        until(lambda: all(answered(pod) > 30 for pod in before), what="requests at every pod")
        process = process_of(node, before[0])
        Path("/proc", process, "oom_score_adj").write_text("1000")  # the sidecar itself and not its worker, which it would replace
        subprocess.run([sys.executable, "-c", TAKE, process, machine.memory_group(process)], check=False, timeout=60)
        until(lambda: killed_for_memory(cluster, victim), what="Degraded, for want of memory")
        until(lambda: began_again(cluster), 90, what="the container started again")
        cluster.until_ready()
        cluster.until_condition("Degraded", "False", "AsExpected")
    (status,) = cluster.get(f"pod/{victim}")["status"]["containerStatuses"]
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
    patient.assert_all_right()
    assert identities(pods(cluster)).keys() == identities(before).keys()


def test_a_memory_limit_that_is_too_small_is_named_while_the_old_pods_serve_and_is_mended_by_a_larger_one(
    cluster: Cluster, caller: Caller
) -> None:
    served(cluster, caller, replicas=1)
    with caller.load(url(cluster), rate=30, model=MODEL) as outcome:
        cluster.edited("dtesnbatcher/demo", _memory("24Mi"))
        until(lambda: killed_for_memory(cluster), 120, what="Degraded, for want of memory")
        assert [ready(pod) for pod in pods(cluster)].count(True) == 1
        cluster.edited("dtesnbatcher/demo", _memory("512Mi"))
        cluster.until_ready(seconds=120)
        until(lambda: cluster.condition("Degraded").get("status") == "False", 120, what="nothing wrong")
    outcome.assert_all_right()


def _memory(limit: str) -> str:
    return json.dumps({"spec": {"sidecar": {"resources": {"limits": {"memory": limit}}}}})


def container_of(pod: dict) -> str:
    """The sidecar's container, as containerd names it."""
    name: str = pod["status"]["containerStatuses"][0]["containerID"]
    return name.removeprefix("containerd://")


def process_of(node: Node, pod: dict) -> str:
    """Its first process."""
    return next(words[1] for line in node.ctr("tasks", "list").splitlines() if (words := line.split())[0] == container_of(pod))


def killed_for_memory(cluster: Cluster, pod: str = "") -> bool:
    """Whether the resource says so, of that pod."""
    degraded = cluster.condition("Degraded")
    return degraded.get("status") == "True" and "OOMKilled" in degraded["message"] and pod in degraded["message"]


def began_again(cluster: Cluster) -> bool:
    """Whether one container was started again, and all pods are Ready."""
    found = pods(cluster)
    return sum(identities(found).values()) == 1 and all(map(ready, found))
