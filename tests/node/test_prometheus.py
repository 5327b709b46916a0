"""A real Prometheus in the cluster says how loaded an application is, and the sidecars follow."""

from __future__ import annotations

from typing import Any

import yaml
from tests.cluster.batchers import Cluster
from tests.cluster.control_plane import until
from tests.node import image
from tests.node.calls import Caller, pod
from tests.node.node import Node
from tests.node.resources import MODEL, asked, pods, resource, url

TARGET = 16  # of a load between the thresholds; more where nobody is busy, less where all are
WRITE = "import pathlib, sys; pathlib.Path('/tmp/metrics').write_text('busy_ratio ' + sys.argv[1] + chr(10))"


def test_prometheus_in_the_cluster_feeds_the_load_and_the_batch_size_follows_it(node: Node, cluster: Cluster, caller: Caller) -> None:
    jobs = [{"job_name": "busy", "static_configs": [{"targets": ["busy:8000"]}]}]
    scraping = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    start = f"{WRITE.replace('sys.argv[1]', repr('0.0'))}; import runpy, sys; sys.argv[1:] = ['--directory', '/tmp', '8000']"
    arguments = ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/data"]
    prometheus = pod("prometheus", arguments, image=image.PROMETHEUS, volumeMounts=[{"name": "config", "mountPath": "/etc/prometheus"}])
    prometheus["spec"]["volumes"] = [{"name": "config", "configMap": {"name": "prometheus"}}]
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus"}, "data": {"prometheus.yml": yaml.safe_dump(scraping)}},
        pod("busy", ["python", "-c", f"{start}; runpy.run_module('http.server', run_name='__main__')"]),
        prometheus,
        _service("busy", 8000),
        _service("prometheus", 9090),
        resource(
            replicas=2,
            batching={"targetBatchSize": TARGET, "enableAdaptiveSizing": False},
            load={
                "prometheus": [{"name": "busy", "url": "http://prometheus:9090", "query": "max(busy_ratio)", "intervalSeconds": 1}],
                **{source: {"weight": 0} for source in ("queue", "system", "nvml")},
            },
        ),
    )
    cluster.until_ready()
    caller.until_answered(url(cluster))
    with caller.load(url(cluster), rate=20, model=MODEL) as outcome:
        for load in (0.0, 1.0, 0.0):
            node.python(cluster.namespace, "busy", "busy", WRITE, str(load))
            until(lambda load=load: _follows(cluster, load), 60, what=f"a load of {load} and batches that follow it")
    outcome.assert_all_right()
    cluster.until_condition("LoadAvailable", "True", "FreshReading")


def _follows(cluster: Cluster, load: float) -> bool:
    """Whether every pod has that load, and a batch size on its side of the target."""
    said = [asked(one, "/dtesn/batch_metrics") for one in pods(cluster)]
    sizes = [one["current_batch_size"] for one in said]
    sides = [size < TARGET if load else size > TARGET for size in sizes]
    return all(sides) and all(one["server_load"]["busy"]["value"] == load for one in said)


def _service(name: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    }
