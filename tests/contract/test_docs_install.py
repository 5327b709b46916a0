"""docs/install.md: its resources become pods with GPUs, what it quotes is said somewhere, its figures are ones that are measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dtesn_operator.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
CHART = ROOT / "charts" / "dtesn-batcher"
RESOURCES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, dict[str, Any]]]:
    """The objects of each resource, by kind."""
    found = []
    for block in RESOURCES:
        file = tmp_path / "batcher.yaml"
        file.write_text(block, encoding="utf-8")
        assert main(["render", str(file)]) == 0
        found.append({one["kind"]: one for one in yaml.safe_load_all(capsys.readouterr().out)})
    return found


def test_every_resource_makes_pods_that_ask_for_their_gpu_as_the_text_says(rendered: list[dict[str, dict[str, Any]]]) -> None:
    plugin, runtime, slice_, claim = rendered
    specs = [one["Deployment"]["spec"]["template"]["spec"] for one in rendered]
    limits = [spec["containers"][0].get("resources", {}).get("limits", {}) for spec in specs]
    assert [set(one) for one in limits] == [{"nvidia.com/gpu"}, {"nvidia.com/gpu"}, {"nvidia.com/mig-1g.10gb"}, set()]
    assert specs[0]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert specs[1]["runtimeClassName"] == "nvidia"
    assert [("ResourceClaimTemplate" in one) for one in (plugin, runtime, slice_, claim)] == [False, False, False, True]
    assert all(one["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0} for one in rendered)
    assert {spec["containers"][0]["image"] for spec in specs} == {"registry.example/dtesn-batcher:0.1.0-gpu"}


def test_the_versions_that_it_names_are_the_charts() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    least = re.match(r">=(\d+\.\d+)", chart["kubeVersion"])
    assert least is not None
    assert f"Kubernetes {least[1]} or newer" in TEXT
    assert set(re.findall(r"dtesn-batcher:(\d+\.\d+\.\d+)", TEXT)) == {chart["appVersion"]}


def test_what_it_quotes_is_what_the_chart_says() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", TEXT.split("## Where it does not go as above")[1], re.MULTILINE)
    ours = [row for row in rows if row not in ("invalid ownership metadata", "ImagePullBackOff")]  # of Helm's and of the kubelet's
    said = "".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").rglob("*") if file.is_file())
    assert len(ours) >= 3
    assert [row for row in ours if row not in said] == []


def test_every_value_that_it_sets_is_one_of_the_charts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    named = set(re.findall(r"(?:--set(?:-json)? '?|`)([a-zA-Z]+(?:\.[a-zA-Z]+)?)=", TEXT))
    assert named >= {"image.repository", "scope.namespaces", "webhook.enabled", "webhook.certificates", "crds.enabled"}
    for name in named:
        found = values
        for part in name.split("."):
            assert part in found, name
            found = found[part]


def test_its_figures_are_measured_by_the_tests_on_the_node() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [\d., ]+ \|", TEXT.split("## How long it takes")[1].split("\n## ")[0], re.MULTILINE)
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "node").glob("*.py"))
    assert len(rows) >= 5
    assert [row for row in rows if f'"{row.strip()}"' not in sources] == []
