"""docs/load.md: its configurations are valid, and its figures are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dtesn_api.spec import LoadConfiguration, PrometheusSource, decode_spec
from dtesn_sidecar.load import engine
from dtesn_sidecar.load.providers import FACTORIES, Inputs, sources

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "load.md").read_text(encoding="utf-8")
CONFIGURATIONS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_each_configuration_is_valid_and_makes_sources(text: str) -> None:
    load = decode_spec(yaml.safe_load(text)).load
    assert sources(load, Inputs(lambda: None, lambda: 0.0))


def test_every_source_is_described() -> None:
    assert len(CONFIGURATIONS) == 3
    for name in FACTORIES:
        assert f"| `{name}` | " in TEXT


def test_its_figures_are_the_codes() -> None:
    one = PrometheusSource(name="a", url="http://p", query="up")
    assert f"| `prometheus` | {one.stale_after_seconds:g} | {one.hold_seconds:g} | `intervalSeconds`, {one.interval_seconds:g} |" in TEXT
    assert f"| `engine` | {engine.STALE_AFTER:g} | {engine.HOLD:g} | {engine.INTERVAL:g} |" in TEXT
    (queue, _) = sources(LoadConfiguration(), Inputs(lambda: None, lambda: 0.0))
    assert f"| `queue`, `system`, `nvml` | {queue.stale_after:g} | {queue.hold:g} | {queue.interval:g} |" in TEXT
