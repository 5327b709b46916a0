"""The release on the node: its own test, and an upgrade of the operator that pods do not notice."""

from __future__ import annotations

import json

from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node import image
from tests.node.calls import Caller
from tests.node.node import Node
from tests.node.release import Release
from tests.node.resources import MODEL, asked, identities, pods, resource, url

DEPLOYMENT = "deployment/dtesn-dtesn-batcher"


def test_helm_test_applies_a_resource_asks_it_and_leaves_nothing(node: Node, operator: Release) -> None:
    def there() -> set[str]:
        everything = ("namespaces", "dtesnbatchers", "pods")
        return {name for kind in everything for name in node.kubectl("get", kind, "--all-namespaces", "--output=name").stdout.split()}

    before = there()
    assert "Succeeded" in operator.helm("test", operator.name, "--timeout=180s")
    until(lambda: there() <= before, 60, what="nothing more than before")


def test_an_upgrade_of_the_operator_and_its_rollback_touch_no_pod_and_lose_no_request(
    cluster: Cluster, caller: Caller, operator: Release
) -> None:
    cluster.apply(resource(replicas=2))
    cluster.until_ready()
    before = identities(pods(cluster))
    with caller.load(url(cluster), rate=40, model=MODEL) as outcome:
        try:
            operator.upgrade(image.NEXT)
            assert image.NEXT in _operators(operator)
            change = {"spec": {"batching": {"targetBatchSize": 11}}}
            cluster.edited("dtesnbatcher/demo", json.dumps(change))  # so that the new operator has had its look at the resource
            reached = lambda: {asked(pod, "/config")["spec"]["batching"]["targetBatchSize"] for pod in pods(cluster)} == {11}  # noqa: E731
            until(reached, 60, what="the settings, from the new operator")
        finally:
            operator.helm("rollback", operator.name, "--wait", "--timeout=120s")
        assert image.IMAGE in _operators(operator)
        cluster.until_condition("Progressing", "False", "UpToDate")
    outcome.assert_all_right()
    assert identities(pods(cluster)) == before
    assert cluster.get("dtesnbatcher/demo")["status"]["image"] == image.IMAGE


def _operators(release: Release) -> list[str]:
    found = release.node.get(DEPLOYMENT, namespace=release.namespace)["spec"]["template"]["spec"]["containers"]
    return [one["image"] for one in found]
