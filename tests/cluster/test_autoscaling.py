"""The real autoscalers scale a resource by what its real sidecars say of themselves to a real Prometheus.

The HorizontalPodAutoscaler reads it from the custom metrics API, which prometheus-adapter serves, KEDA from Prometheus itself.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.batchers import Cluster, batcher
from tests.cluster.build import binary
from tests.cluster.cluster import until
from tests.cluster.custom_metrics import custom_metrics
from tests.cluster.keda import Keda
from tests.cluster.operator_process import Replica, replica
from tests.cluster.sidecars import Sidecars, callers, prometheus
from tests.integration.prometheus_server import Exporter, Prometheus, exporting, needs_prometheus

from dtesn_api import names

pytestmark = needs_prometheus
# What a person may add to the ScaledObject, and what the operator leaves: KEDA looks each second and takes two to cool down.
EAGER = '{"spec": {"pollingInterval": 1, "cooldownPeriod": 2}}'
PATIENCE = 120  # seconds
_numbers = count(1)


@pytest.fixture
def cluster(keda: Keda) -> Iterator[Cluster]:
    name = f"shop-{next(_numbers)}"
    keda.plane.kubectl("create", "namespace", name)
    yield Cluster(keda.plane, name)
    keda.plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path) -> Iterator[Replica]:
    with replica(tmp_path, cluster.plane.kubeconfig, namespaces=[cluster.namespace], lease_namespace=cluster.namespace) as running:
        yield running


@pytest.fixture
def sidecars(cluster: Cluster, tmp_path: Path) -> Iterator[Sidecars]:
    with Sidecars.behind(cluster, tmp_path) as found:
        yield found


@pytest.fixture
def shop() -> Iterator[Exporter]:
    """What the shop says of itself: how much there is to do, and how many wait before its gateway."""
    with exporting("shop_demand 0.5\nshop_queue 0\n") as exporter:
        yield exporter


@pytest.fixture
def metrics(sidecars: Sidecars, shop: Exporter, tmp_path: Path) -> Iterator[Prometheus]:
    with prometheus(tmp_path / "prometheus", sidecars.targets, shop.port) as server:
        yield server


def replicas(cluster: Cluster) -> int:
    found: int = cluster.get("deployment/demo")["spec"]["replicas"]
    return found


def until_replicas(cluster: Cluster, sidecars: Sidecars, number: int) -> None:
    """Wait for so many pods, while sidecars come and go with them."""

    def there() -> bool:
        sidecars.follow()
        return replicas(cluster) == len(sidecars.urls) == number

    until(there, PATIENCE, what=f"{number} replicas")


def eager(cluster: Cluster) -> None:
    """Make KEDA look often."""
    until(lambda: cluster.exists("scaledobject/demo"), what="a ScaledObject")
    cluster.edited("scaledobject/demo", EAGER)


def shared(metrics: Prometheus) -> dict[str, Any]:
    """A load that is each pod's share of the shop's demand, so that pods relieve one another as they do in earnest, and nothing else."""
    source = {"name": "shop", "url": metrics.url, "query": 'shop_demand / scalar(count(up{job="sidecars"}))', "intervalSeconds": 0.5}
    return {"prometheus": [source], "queue": {"weight": 0}, "system": {"weight": 0}}


def until_the_replicas_have_followed_the_demand(cluster: Cluster, sidecars: Sidecars, shop: Exporter) -> None:
    """Up to four pods, to two, and to one."""
    until_replicas(cluster, sidecars, 1)
    shop.text = "shop_demand 2.5\n"
    until_replicas(cluster, sidecars, 4)  # 2.5 / 0.7, rounded up
    cluster.until_ready()
    shop.text = "shop_demand 1.3\n"
    until_replicas(cluster, sidecars, 2)
    shop.text = "shop_demand 0.5\n"
    until_replicas(cluster, sidecars, 1)
    assert cluster.get("dtesnbatcher/demo")["spec"]["replicas"] == 1


@pytest.mark.usefixtures("operator")
def test_a_horizontal_pod_autoscaler_follows_the_load_up_and_down(
    cluster: Cluster, sidecars: Sidecars, shop: Exporter, metrics: Prometheus
) -> None:
    autoscaling = {"enabled": True, "via": "hpa", "target": "load", "minReplicas": 1, "maxReplicas": 4}
    with custom_metrics(cluster.plane, metrics.url):
        cluster.apply(batcher(replicas=1, load=shared(metrics), autoscaling=autoscaling))
        until_the_replicas_have_followed_the_demand(cluster, sidecars, shop)
        (metric,) = cluster.get("hpa/demo")["status"]["currentMetrics"]
        assert metric["pods"]["metric"]["name"] == names.METRIC_LOAD_COMBINED


@pytest.mark.usefixtures("operator")
def test_keda_follows_the_load_up_and_down(cluster: Cluster, sidecars: Sidecars, shop: Exporter, metrics: Prometheus) -> None:
    autoscaling = {"enabled": True, "via": "keda", "minReplicas": 1, "maxReplicas": 4, "prometheusUrl": metrics.url}
    cluster.apply(batcher(replicas=1, load=shared(metrics), autoscaling=autoscaling))
    eager(cluster)
    until_the_replicas_have_followed_the_demand(cluster, sidecars, shop)
    spec = cluster.get("scaledobject/demo")["spec"]
    assert {name: spec[name] for name in ("pollingInterval", "cooldownPeriod")} == json.loads(EAGER)["spec"]


@pytest.mark.usefixtures("operator")
def test_the_replicas_go_to_zero_and_come_back_with_requests(
    cluster: Cluster, sidecars: Sidecars, shop: Exporter, metrics: Prometheus
) -> None:
    """The gateway's queue wakes the first pod; the requests that then wait in the sidecars ask for more."""
    patient = {"strategy": "fixed", "targetBatchSize": 256, "maxBatchSize": 256, "minBatchWaitMs": 10000, "maxBatchWaitMs": 10000}
    autoscaling = {
        "enabled": True,
        "via": "keda",
        "minReplicas": 0,
        "maxReplicas": 3,
        "target": "pendingPerPod",
        "value": 4,
        "prometheusUrl": metrics.url,
        "activationQuery": "shop_queue",
    }
    cluster.apply(batcher(replicas=1, batching=patient, autoscaling=autoscaling))
    eager(cluster)
    until_replicas(cluster, sidecars, 0)
    shop.text = "shop_queue 10\n"
    until_replicas(cluster, sidecars, 1)
    with callers(sidecars, 11):  # 11 / 4, rounded up
        until_replicas(cluster, sidecars, 3)
    until_replicas(cluster, sidecars, 1)
    shop.text = "shop_queue 0\n"
    until_replicas(cluster, sidecars, 0)
    assert cluster.get("dtesnbatcher/demo")["spec"]["replicas"] == 0
    cluster.until_ready()  # none wanted, none missing


@pytest.mark.usefixtures("operator")
def test_keda_switched_on_and_off_at_five_replicas_passes_no_other_number(cluster: Cluster, metrics: Prometheus) -> None:
    five = {"enabled": True, "via": "keda", "minReplicas": 5, "maxReplicas": 9, "prometheusUrl": metrics.url}
    scaler = "hpa/keda-hpa-demo"
    cluster.apply(batcher(replicas=5))
    cluster.until_ready()
    with seen(cluster, "dtesnbatchers", "deployments.apps") as numbers:
        for _ in range(2):
            cluster.edited("dtesnbatcher/demo", json.dumps({"spec": {"autoscaling": five}}))
            until(
                lambda: cluster.get(scaler).get("status", {}).get("desiredReplicas") == 5, PATIENCE, what="an autoscaler that has its say"
            )
            cluster.edited("dtesnbatcher/demo", '{"spec": {"autoscaling": {"enabled": false}}}')
            until(lambda: not cluster.exists(scaler), PATIENCE, what="an autoscaler less")
        until(lambda: len(numbers()) >= 4, what="what was seen")
    cluster.until_ready()
    assert set(numbers()) == {5}


@contextmanager
def seen(cluster: Cluster, *kinds: str) -> Iterator[Callable[[], list[int]]]:
    """Every number of replicas that is ever wanted of objects of these kinds, as watches report it."""
    command = [str(binary("kubectl")), "--kubeconfig", str(cluster.plane.kubeconfig), "--namespace", cluster.namespace]
    ways: list[tuple[subprocess.Popen[bytes], Path]] = []
    for kind in kinds:
        file = cluster.plane.folder / f"{cluster.namespace}-{kind}"
        with file.open("wb") as log:
            watch = [*command, "get", kind, "--watch", "-o", 'jsonpath={.spec.replicas}{"\\n"}']
            ways.append((subprocess.Popen(watch, stdout=log), file))
    try:
        yield lambda: [int(line) for _, file in ways for line in file.read_text().splitlines()]
    finally:
        for process, _ in ways:
            process.terminate()
            process.wait()
