"""What examples/monitoring ships, in a real Prometheus that scrapes a real sidecar after real traffic: scrape, rules, dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.http_server import Server, running
from tests.integration.prometheus_server import SCRAPE_INTERVAL, Prometheus, needs_prometheus, wait_for

from dtesn_sidecar.metrics.catalogue import METRICS

pytestmark = needs_prometheus
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "examples" / "monitoring"
DASHBOARD = json.loads((SHIPPED / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALL_QUERIES = [(panel["title"], target["legendFormat"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES = [query for query in ALL_QUERIES if "dtesn_grpc_" not in query[2]]  # this server is one without gRPC
RULES = [rule for group in yaml.safe_load((SHIPPED / "rules.yaml").read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
EXPRESSIONS = {f"{title}: {legend}": query for title, legend, query in QUERIES} | {
    rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES
}
# In PromQL: an identifier that is a metric (recorded ones have colons), with its matchers.
SELECTOR = re.compile(r"\b((?:dtesn_|process_|instance:)[\w:]+)\s*(\{[^}]*\})?")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


@dataclass
class World:
    """A sidecar that has served, and the Prometheus that watches it."""

    sidecar: Server
    prometheus: Prometheus

    def api(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus' HTTP API; an error is the test's."""
        url = f"{self.prometheus.url}/api/v1/{path}?{urllib.parse.urlencode({name.rstrip('_'): it for name, it in parameters.items()})}"
        with urllib.request.urlopen(url, timeout=100) as answer:
            return json.loads(answer.read())["data"]

    def series(self, selector: str) -> list[dict[str, str]]:
        """The series that a selector matches."""
        return self.api("series", **{"match[]": selector})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("prometheus")
    with running() as sidecar:
        serve_some(sidecar)
        shipped = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
        (static,) = shipped["scrape_configs"][0]["static_configs"]
        static["targets"] = [f"127.0.0.1:{sidecar.port}"]
        shipped["global"] = {"scrape_interval": SCRAPE_INTERVAL, "scrape_timeout": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(shipped))
        (folder / "rules.yaml").write_text((SHIPPED / "rules.yaml").read_text())
        server = Prometheus(folder, ["--config.file=prometheus.yml", "--storage.tsdb.path=data"], "http")
        server.start()
        try:
            yield World(sidecar, server)
        finally:
            server.kill()


def serve_some(sidecar: Server) -> None:
    """Traffic of each kind, until there is an improvement to show: that takes a baseline, measured while the server is idle."""

    def served() -> bool:
        post(sidecar, "/dtesn/process_with_batching", input_data="hello", priority=0)
        post(sidecar, "/dtesn/process", input_data="hello")
        post(sidecar, "/dtesn/batch_process", inputs=["one", "two", "three"])
        with urllib.request.urlopen(f"{sidecar.url}/dtesn/batch_metrics", timeout=100) as answer:
            body = json.loads(answer.read())
        return body["metrics"]["throughput_improvement"] is not None and body["server_load"]["queue"]["value"] is not None

    wait_for(served)


def post(sidecar: Server, path: str, **body: object) -> None:
    data = json.dumps({"timeout": 100, **body}).encode()
    request = urllib.request.Request(sidecar.url + path, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=100) as answer:
        answer.read()


def test_promtool_finds_nothing_wrong_with_the_exposition(world: World) -> None:
    with urllib.request.urlopen(f"{world.sidecar.url}/metrics", timeout=100) as answer:
        text = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_prometheus_takes_the_format_that_it_prefers(world: World) -> None:
    """Its Accept header prefers OpenMetrics, which is stricter; a format it could not read would leave the target down."""
    (target,) = wait_for(lambda: [it for it in world.api("targets")["activeTargets"] if it["health"] != "unknown"])
    assert (target["health"], target["lastError"]) == ("up", "")
    known = {it["metric"]: it for it in world.api("targets/metadata")}
    assert known["dtesn_config"]["type"] == "info"  # a type that only OpenMetrics has


@pytest.mark.parametrize("name", [name for name in METRICS if not name.startswith("dtesn_grpc_")])
def test_every_metric_of_the_catalogue_reaches_prometheus_with_its_labels(world: World, name: str) -> None:
    metric = METRICS[name]
    stored = f"{name}_bucket" if metric.kind == "histogram" else name
    series = wait_for(lambda: world.series(stored))
    targets = {"__name__", "instance", "job", "pod"} | ({"le"} if metric.kind == "histogram" else set())
    assert {frozenset(it) for it in series} == {frozenset(metric.labels) | targets}
    for label, values in metric.labels.items():
        if isinstance(values, tuple):
            assert {it[label] for it in series} <= set(values)


@pytest.mark.parametrize("name", list(EXPRESSIONS))
def test_every_selector_and_label_of_a_query_is_one_that_the_sidecar_exports(world: World, name: str) -> None:
    query = bound(EXPRESSIONS[name])
    found = list(SELECTOR.finditer(query))
    assert found
    labels: set[str] = set()
    for selector in found:
        matched = wait_for(lambda selector=selector: world.series(selector[0]))
        labels |= {label for it in matched for label in it}
    for clause in GROUPING.findall(query):
        assert {label.strip() for label in clause.split(",")} <= labels


@pytest.mark.parametrize(("title", "legend", "query"), QUERIES, ids=[f"{title}: {legend}" for title, legend, _ in QUERIES])
def test_every_query_of_the_dashboard_has_data_and_the_labels_of_its_legend(world: World, title: str, legend: str, query: str) -> None:
    result = wait_for(lambda: world.prometheus.query(bound(query)))
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert all(label in it["metric"] for it in result)


def test_the_variables_of_the_dashboard_have_values(world: World) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            assert {it[label] for it in wait_for(lambda selector=selector: world.series(bound(selector)))}


def test_prometheus_evaluates_every_shipped_rule_and_recorded_ones_have_data(world: World) -> None:
    def evaluated() -> list[Any]:
        rules = [rule for group in world.api("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = wait_for(evaluated)
    assert len(rules) == len(RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            assert wait_for(lambda rule=rule: world.prometheus.query(rule["name"]))


def test_a_server_that_does_well_wakes_nobody(world: World) -> None:
    wait_for(lambda: world.prometheus.query("instance:dtesn_refusals:ratio_rate5m"))
    firing = [alert for alert in world.api("alerts")["alerts"] if alert["state"] == "firing"]
    assert firing == []


def bound(query: str) -> str:
    """The query with the values that Grafana would put in."""
    query = query.replace("$__rate_interval", "5m")
    return re.sub(r"\$\w+", ".*", query)
