"""Targets, and keeping results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import results
from bench.plans import Outcome, void_reasons
from bench.results import Part, Target
from bench.stats import Interval


def outcome(**changes: float) -> Outcome:
    values: dict[str, object] = dict.fromkeys(Outcome.__struct_fields__, 0)
    values |= {"statuses": {}, "latencies_ms": [], "timeline": [], "slip_p99_ms": 0.5, "p99_ms": 50.0}
    return Outcome(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "better", "met"),
    [(1.39, 2, "higher", False), (1.4, 2, "higher", True), (1, 1.05, "lower", True), (1, 1.06, "lower", False)],
)
def test_the_worse_end_of_the_interval_decides(low: float, high: float, better: results.Better, met: bool) -> None:
    bound = 1.4 if better == "higher" else 1.05
    assert Target.of("x", Interval((low + high) / 2, low, high), bound, better=better).met is met


def test_what_was_not_measured_is_not_met() -> None:
    assert not Target("x", None, None, None, 0.0).met


@pytest.mark.parametrize(("slip", "p99", "void"), [(0.5, 50, False), (5.1, 500, True), (4.9, 40, True), (4.9, 50, False)])
def test_a_late_generator_voids_the_run(slip: float, p99: float, void: bool) -> None:
    assert bool(void_reasons(outcome(slip_p99_ms=slip, p99_ms=p99))) is void


def test_a_part_measured_again_replaces_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUT", tmp_path)
    for name, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        results.store("http", Part(name, seconds, [Target.exactly("x", 1, 1)]), quick=False, save=False)
    parts = json.loads((tmp_path / "http.json").read_text())["parts"]
    assert {name: part["seconds"] for name, part in parts.items()} == {"a": 3.0, "b": 2.0}


def test_a_quick_pass_is_not_kept_as_figures() -> None:
    with pytest.raises(SystemExit, match="quick"):
        results.store("http", Part("a", 1.0), quick=True, save=True)


@pytest.mark.parametrize(
    ("value", "unit", "text"), [(1.432, "x", "1.43x"), (0.872, "%", "87.2 %"), (24.06, "ms", "24.1 ms"), (0, "", "0"), (None, "x", "-")]
)
def test_figures_are_written_as_people_read_them(value: float | None, unit: str, text: str) -> None:
    assert results.figure(value, unit) == text
