"""The release on the node: its own test, in all namespaces or some, its rights, and an upgrade that pods do not notice."""

from __future__ import annotations

import json

import pytest
from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node import image
from tests.node.calls import Caller
from tests.node.node import Node
from tests.node.release import Release
from tests.node.resources import MODEL, asked, identities, pods, resource, served, url

DEPLOYMENT = "deployment/dtesn-dtesn-batcher"


def test_helm_test_applies_a_resource_asks_it_and_leaves_nothing(node: Node, operator: Release) -> None:
    before = there(node)
    assert "8 answers" in operator.test()
    until(lambda: there(node) <= before, 60, what="nothing more than before")


def test_an_operator_for_some_namespaces_alone_passes_its_own_test_there_and_sees_no_other(node: Node, operator: Release) -> None:
    for name in ("team-a", "team-b"):
        node.make_namespace(name)
    a, b = (Cluster(node, name) for name in ("team-a", "team-b"))
    with operator.upgraded(image.IMAGE, '--set-json=scope.namespaces=["team-a"]', "--set=webhook.enabled=false"):
        assert node.kubectl("get", "clusterroles", f"--selector=app.kubernetes.io/instance={operator.name}").stdout == ""
        b.apply(resource(replicas=1))
        before = there(node)
        assert "8 answers" in operator.test()
        until(lambda: there(node) <= before, 60, what="nothing more than before")
        a.apply(resource(replicas=1))
        a.until_ready()
        assert "status" not in b.get("dtesnbatcher/demo")
    b.until_ready()  # after the rollback
    node.kubectl("delete", "namespace", "team-a", "team-b", "--wait=false")


@pytest.mark.parametrize(
    ("verb", "what"), [("get", "secrets"), ("list", "secrets"), ("create", "pods"), ("create", "pods/exec"), ("get", "nodes")]
)
def test_the_operator_may_not(node: Node, operator: Release, namespace: str, verb: str, what: str) -> None:
    for place in (namespace, "kube-system"):
        asked = ("auth", "can-i", verb, what, f"--namespace={place}", f"--as={operator.user}")
        assert node.kubectl(*asked, check=False).stdout.strip() == "no"
    asked = ("auth", "can-i", "create", "deployments", f"--namespace={namespace}", f"--as={operator.user}")
    assert node.kubectl(*asked, check=False).stdout.strip() == "yes"


def test_an_upgrade_of_the_operator_and_its_rollback_touch_no_pod_and_lose_no_request(
    cluster: Cluster, caller: Caller, operator: Release
) -> None:
    before = identities(served(cluster, caller, replicas=2))
    with caller.load(url(cluster), rate=40, model=MODEL) as outcome:
        with operator.upgraded(image.NEXT):
            assert image.NEXT in _operators(operator)
            change = {"spec": {"batching": {"targetBatchSize": 11}}}
            cluster.edited("dtesnbatcher/demo", json.dumps(change))  # so that the new operator has had its look at the resource
            reached = lambda: {asked(pod, "/config")["spec"]["batching"]["targetBatchSize"] for pod in pods(cluster)} == {11}  # noqa: E731
            until(reached, 60, what="the settings, from the new operator")
        assert image.IMAGE in _operators(operator)
        cluster.until_condition("Progressing", "False", "UpToDate")
    outcome.assert_all_right()
    assert identities(pods(cluster)) == before
    assert cluster.get("dtesnbatcher/demo")["status"]["image"] == image.IMAGE


def there(node: Node) -> set[str]:
    """Names of what a test of the release could leave."""
    kinds = "namespaces,dtesnbatchers,pods,roles,rolebindings,serviceaccounts"
    return set(node.kubectl("get", kinds, "--all-namespaces", "--output=name").stdout.split())


def _operators(release: Release) -> list[str]:
    found = release.node.get(DEPLOYMENT, namespace=release.namespace)["spec"]["template"]["spec"]["containers"]
    return [one["image"] for one in found]
