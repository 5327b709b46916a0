"""What happens to requests while things change: settings, the image, the operator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node import image
from tests.node.calls import Caller
from tests.node.release import Release
from tests.node.resources import MODEL, answered, asked, identities, pods, ready, served, until_replaced, url

REPOSITORY, _, NEXT_TAG = image.NEXT.rpartition(":")
NEXT = json.dumps({"spec": {"image": {"repository": REPOSITORY, "tag": NEXT_TAG}}})
HALF_A_CORE = {"resources": {"limits": {"cpu": "500m", "memory": "512Mi"}}}


def test_a_change_of_batching_reaches_running_pods_without_a_restart_while_requests_flow(
    cluster: Cluster, caller: Caller, figure: Callable[[str, float], None]
) -> None:
    found = served(cluster, caller, replicas=2)
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
        (reported,) = {asked(pod, "/config")["config_hash"] for pod in found}
        until(lambda: cluster.get("dtesnbatcher/demo")["status"]["configHash"] == reported, what="the same hash in the status")
    outcome.assert_all_right()
    assert identities(pods(cluster)) == before
    figure("a change of batching in force in both pods, slowest of three, s", slowest)


def test_a_rolling_update_of_the_image_at_half_of_the_pods_capacity_loses_no_request(
    cluster: Cluster, caller: Caller, figure: Callable[[str, float], None]
) -> None:
    before = served(cluster, caller, replicas=2, sidecar=HALF_A_CORE)
    with caller.load(url(cluster), at_once=64, model=MODEL) as most:
        until(lambda: all(answered(pod) > 500 for pod in before), 60, what="requests at every pod")
    most.assert_all_right()
    capacity = most.right / most.seconds
    figure("capacity of two pods of half a core each, requests/s", capacity)
    counted = [answered(pod) for pod in before]
    with caller.load(url(cluster), rate=capacity / 2, model=MODEL) as outcome:
        until(lambda: all(answered(pod) > count + 50 for pod, count in zip(before, counted, strict=True)), what="requests at every pod")
        began = time.monotonic()
        cluster.edited("dtesnbatcher/demo", NEXT)
        until_replaced(cluster, before, image.NEXT)
        figure("rolling update of two pods at half of their capacity, s", time.monotonic() - began)
        until(lambda: all(answered(pod) > 50 for pod in pods(cluster)), what="requests at every new pod")
        cluster.until_condition("Progressing", "False", "UpToDate")
    outcome.assert_all_right()
    figure("requests sent during that rolling update, none lost", outcome.sent)
    figure("requests/s during that rolling update", outcome.sent / outcome.seconds)
    figure("longest answer during that rolling update, ms", outcome.longest_ms)


def test_operators_that_are_killed_in_a_rolling_update_finish_it_when_they_are_back(
    cluster: Cluster, caller: Caller, operator: Release
) -> None:
    before = served(cluster, caller, replicas=2)
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
