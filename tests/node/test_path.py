"""The path a user takes: install the chart, apply one resource, ask the Service. And back: delete, and nothing is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node.calls import Caller
from tests.node.node import Node
from tests.node.release import Release
from tests.node.resources import MODEL, answered, asked, pods, ready, resource, served, url

RIGHTS = """
import json, os, pathlib
def writable(folder):
    try:
        pathlib.Path(folder, "mine").write_text("x")
    except OSError:
        return False
    return True
print(json.dumps({
    "user": os.getuid(), "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"),
    "root": writable("/"), "code": writable("/opt/dtesn"), "tmp": writable("/tmp"),
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")][0],
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
}))
"""
OWNED = ",".join(
    (
        *("deployments", "replicasets", "pods", "services", "endpointslices", "configmaps", "serviceaccounts"),
        *("horizontalpodautoscalers", "poddisruptionbudgets", "networkpolicies"),
    )
)


def test_helm_installs_an_operator_that_becomes_ready_under_the_restricted_standard(node: Node, operator: Release) -> None:
    found = node.get("deployment/dtesn-dtesn-batcher", namespace=operator.namespace)
    assert found["status"]["readyReplicas"] == found["spec"]["replicas"] == 2


def test_one_applied_resource_answers_through_its_services_name_rightly_and_in_batches(
    cluster: Cluster, caller: Caller, figure: Callable[[str, float], None]
) -> None:
    began = time.monotonic()
    cluster.apply(resource(replicas=2))
    caller.until_answered(url(cluster))
    figure("kubectl apply to the first answer through the Service, s", time.monotonic() - began)
    cluster.until_ready()
    with caller.load(url(cluster), rate=100, model=MODEL) as outcome:
        until(lambda: all(answered(pod) > 100 for pod in pods(cluster)), 60, what="requests at every pod")
    outcome.assert_all_right()
    assert outcome.batched > 0
    figure("median answer at 100 requests/s through the Service, ms", outcome.median_ms)
    assert cluster.get("dtesnbatcher/demo")["status"]["readyReplicas"] == 2


def test_a_sidecar_has_no_token_no_privilege_and_a_root_that_nobody_writes(node: Node, cluster: Cluster) -> None:
    cluster.apply(resource(replicas=1))
    cluster.until_ready()
    name = pods(cluster)[0]["metadata"]["name"]
    found = json.loads(node.python(cluster.namespace, name, "dtesn-sidecar", RIGHTS))
    privileges = {"privileges": "1", "capabilities": "0000000000000000"}
    assert found == {"user": 65532, "token": False, "root": False, "code": False, "tmp": True, **privileges}


def test_kubectl_scale_makes_more_pods_and_fewer_while_requests_are_answered(cluster: Cluster, caller: Caller) -> None:
    served(cluster, caller, replicas=1)
    with caller.load(url(cluster), rate=40, model=MODEL) as outcome:
        for wanted in (3, 1):
            cluster.kubectl("scale", "dtesnbatcher/demo", f"--replicas={wanted}")
            until(lambda wanted=wanted: [ready(pod) for pod in pods(cluster)] == [True] * wanted, 90, what=f"{wanted} pods")
            cluster.until_ready()
    outcome.assert_all_right()


def test_a_resource_that_is_deleted_leaves_nothing_behind(cluster: Cluster) -> None:
    def there() -> set[str]:
        return set(cluster.kubectl("get", OWNED, "--output=name").split())

    before = there()
    soon = {"drainDelaySeconds": 1}  # nobody sends requests here
    cluster.apply(resource(replicas=2, sidecar=soon, disruptionBudget={"enabled": True}, networkPolicy={"enabled": True}))
    cluster.until_ready()
    assert len(there() - before) >= 9
    cluster.kubectl("delete", "dtesnbatcher/demo")
    until(lambda: there() <= before, 90, what="nothing of the resource's")


def test_a_network_policy_admits_the_operator_and_who_is_named(cluster: Cluster) -> None:
    cluster.apply(resource(networkPolicy={"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "shop"}}}]}))
    cluster.until_ready()
    rules = cluster.get("networkpolicy/demo")["spec"]["ingress"]
    peers = [peer for rule in rules for peer in rule.get("from", [])]
    assert {"podSelector": {"matchLabels": {"app": "shop"}}} in peers
    assert any(
        peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name") == "dtesn-system" for peer in peers
    )
    assert asked(pods(cluster)[0], "/readyz")["status"] == "ok"
