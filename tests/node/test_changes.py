"""What happens to requests while things change or break: settings, images, pods, the operator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node import image
from tests.node.calls import Caller
from tests.node.node import Node
from tests.node.release import Release
from tests.node.resources import MODEL, answered, asked, identities, pods, ready, resource, until_replaced, url

REPOSITORY, _, NEXT_TAG = image.NEXT.rpartition(":")
NEXT = json.dumps({"spec": {"image": {"repository": REPOSITORY, "tag": NEXT_TAG}}})


def test_a_change_of_batching_reaches_running_pods_without_a_restart_while_requests_flow(
    cluster: Cluster, caller: Caller, figure: Callable[[str, float], None]
) -> None:
    cluster.apply(resource(replicas=2))
    cluster.until_ready()
    found = pods(cluster)
    before = identities(found)
    slowest = 0.0
    with caller.load(url(cluster), rate=60, model=MODEL) as outcome:
        for target in (12, 5, 9):
            began = time.monotonic()
            cluster.edited("dtesnbatcher/demo", json.dumps({"spec": {"batching": {"targetBatchSize": target}}}))
            in_force = lambda target=target: all(  # noqa: E731
                asked(pod, "/config")["spec"]["batching"]["targetBatchSize"] == target for pod in found
            )
            until(in_force, 120, what=f"a target of {target} in every pod")
            slowest = max(slowest, time.monotonic() - began)
        wanted = cluster.get("dtesnbatcher/demo")["status"]["configHash"]
        assert {asked(pod, "/config")["config_hash"] for pod in found} == {wanted}
    outcome.assert_all_right()
    assert identities(pods(cluster)) == before
    figure("a change of batching in force in both pods, slowest of three, s", slowest)


def test_a_rolling_update_of_the_image_under_load_loses_no_request(
    cluster: Cluster, caller: Caller, figure: Callable[[str, float], None]
) -> None:
    cluster.apply(resource(replicas=2))
    cluster.until_ready()
    before = pods(cluster)
    with caller.load(url(cluster), rate=100, model=MODEL) as outcome:
        until(lambda: all(answered(pod) > 50 for pod in before), what="requests at every pod")
        began = time.monotonic()
        cluster.edited("dtesnbatcher/demo", NEXT)
        until_replaced(cluster, before, image.NEXT)
        figure("rolling update of two pods, s", time.monotonic() - began)
        until(lambda: all(answered(pod) > 50 for pod in pods(cluster)), what="requests at every new pod")
        cluster.until_condition("Progressing", "False", "UpToDate")
    outcome.assert_all_right()
    figure("requests sent during a rolling update, none lost", outcome.sent)
    figure("longest answer during a rolling update, ms", outcome.longest_ms)


def test_an_evicted_pod_loses_no_request(cluster: Cluster, caller: Caller, node: Node) -> None:
    cluster.apply(resource(replicas=2, disruptionBudget={"enabled": True}))
    cluster.until_ready()
    before = pods(cluster)
    name = before[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": cluster.namespace}}
    with caller.load(url(cluster), rate=60, model=MODEL) as outcome:
        until(lambda: all(answered(pod) > 30 for pod in before), what="requests at every pod")
        path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction"
        node.kubectl("create", "--raw", path, "-f", "-", data=json.dumps(eviction))
        until(lambda: name not in cluster.kubectl("get", "pods", "--output=name"), 90, what="the pod's end")
        until(lambda: [ready(pod) for pod in pods(cluster)] == [True, True], 90, what="another pod in its place")
    outcome.assert_all_right()


def test_of_a_pod_that_is_killed_only_requests_on_their_way_to_it_fail_and_with_retries_none(
    cluster: Cluster, caller: Caller, node: Node
) -> None:
    cluster.apply(resource(replicas=2))
    cluster.until_ready()
    before = pods(cluster)
    victim = before[0]
    container = victim["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    with (
        caller.load(url(cluster), rate=40, model=MODEL, retries=True) as patient,
        caller.load(url(cluster), rate=40, model=MODEL) as hasty,
    ):
        until(lambda: all(answered(pod) > 30 for pod in before), what="requests at every pod")
        node.ctr("tasks", "kill", "--signal", "SIGKILL", container)
        began_again = lambda: sum(identities(pods(cluster)).values()) == 1 and all(map(ready, pods(cluster)))  # noqa: E731
        until(began_again, 90, what="the container started again")
        counted = answered(before[1])
        until(lambda: answered(before[1]) > counted + 50, what="requests at the other pod")
    patient.assert_all_right()
    assert hasty.wrong == []
    assert set(hasty.failed) <= {"ConnectionFailed"}, hasty.failures
    assert hasty.right == hasty.sent - sum(hasty.failed.values())
    assert identities(pods(cluster)).keys() == identities(before).keys()


def test_operators_that_are_killed_in_a_rolling_update_finish_it_when_they_are_back(
    cluster: Cluster, caller: Caller, operator: Release
) -> None:
    cluster.apply(resource(replicas=2))
    cluster.until_ready()
    before = pods(cluster)
    with caller.load(url(cluster), rate=60, model=MODEL) as outcome:
        cluster.edited("dtesnbatcher/demo", NEXT)
        operator.kill_pods()
        cluster.edited("dtesnbatcher/demo", json.dumps({"spec": {"batching": {"targetBatchSize": 11}, "replicas": 3}}))
        until(lambda: len(pods(cluster)) == 3 and all(map(ready, pods(cluster))), 180, what="three pods")
        until(
            lambda: {pod["spec"]["containers"][0]["image"] for pod in pods(cluster)} == {image.NEXT}, 180, what="the new image everywhere"
        )
        cluster.until_condition("Progressing", "False", "UpToDate", seconds=120)
    outcome.assert_all_right()
    assert not {pod["metadata"]["uid"] for pod in before} & {pod["metadata"]["uid"] for pod in pods(cluster)}
    assert {asked(pod, "/config")["spec"]["batching"]["targetBatchSize"] for pod in pods(cluster)} == {11}


def test_a_memory_limit_that_is_too_small_is_named_while_the_old_pods_serve_and_is_mended_by_a_larger_one(
    cluster: Cluster, caller: Caller
) -> None:
    cluster.apply(resource(replicas=1))
    cluster.until_ready()
    with caller.load(url(cluster), rate=30, model=MODEL) as outcome:
        cluster.edited("dtesnbatcher/demo", _memory("24Mi"))
        said = lambda: "OOMKilled" in cluster.condition("Degraded").get("message", "")  # noqa: E731
        until(said, 120, what="Degraded for want of memory")
        assert cluster.condition("Degraded")["status"] == "True"
        assert [ready(pod) for pod in pods(cluster)].count(True) == 1
        cluster.edited("dtesnbatcher/demo", _memory("512Mi"))
        cluster.until_ready(seconds=120)
        until(lambda: cluster.condition("Degraded").get("status") == "False", 120, what="nothing wrong")
    outcome.assert_all_right()


def _memory(limit: str) -> str:
    return json.dumps({"spec": {"sidecar": {"resources": {"limits": {"memory": limit}}}}})
