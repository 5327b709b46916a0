"""What examples/monitoring ships, as files: promtool's own tests of the rules, and the shape of the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dtesn_sidecar.metrics.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "examples" / "monitoring"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
GROUPS = yaml.safe_load((SHIPPED / "rules.yaml").read_text(encoding="utf-8"))["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
TESTED = [
    case for test in yaml.safe_load((SHIPPED / "rules_test.yaml").read_text(encoding="utf-8"))["tests"] for case in test["alert_rule_test"]
]
DASHBOARD = json.loads((SHIPPED / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml"), ("check", "config", "prometheus.yml")],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", list(ALERTS))
def test_every_alert_is_tested_where_it_fires_and_where_it_does_not(name: str) -> None:
    assert {bool(case["exp_alerts"]) for case in TESTED if case["alertname"] == name} == {True, False}


@pytest.mark.parametrize("name", list(ALERTS))
def test_every_alert_says_what_it_is_how_bad_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert "$labels" in alert["annotations"]["description"]
    page, anchor = alert["annotations"]["runbook_url"].split("#")
    assert (page, anchor) == ("docs/troubleshooting.md", re.sub(r"[^a-z-]", "", anchor))


def test_every_runbook_is_a_section_of_the_troubleshooting_page() -> None:
    page = TROUBLESHOOTING.read_text(encoding="utf-8")
    there = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    there |= set(re.findall(r'<a (?:id|name)="([^"]+)"', page))
    assert {alert["annotations"]["runbook_url"].split("#")[1] for alert in ALERTS.values()} <= there


def test_the_rows_are_those_of_the_operators_questions() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == [
        "Traffic",
        "Latency",
        "Batching",
        "Load",
        "Failures",
        "Resources",
    ]


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source() -> None:
    for panel in PANELS:
        if panel["type"] != "row":
            assert len(panel["description"]) > 20, panel["title"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
            assert all(it["datasource"]["uid"] == "${datasource}" for it in (panel, *panel["targets"]))


def test_every_metric_is_on_the_dashboard() -> None:
    queries = " ".join(target["expr"] for panel in PANELS for target in panel.get("targets", ()))
    missing = [name for name in METRICS if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", queries)]
    assert missing == []
