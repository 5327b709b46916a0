"""README's figures and the table of all targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import report
from bench.curves import draw
from bench.results import Curves, Part, Target


def stored(folder: Path, section: str, part: Part) -> None:
    from dataclasses import asdict

    machine = {"cores": 2, "cpu": "a processor", "python": "3.11", "numpy": "2.4"}
    (folder / f"{section}.json").write_text(json.dumps({"parts": {part.name: asdict(part) | {"environment": machine}}}))


def test_only_the_block_between_the_marks_is_replaced() -> None:
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    fresh = report.with_figures(readme, "new")
    assert fresh == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    assert report.with_figures(fresh, "new") == fresh


def test_a_readme_without_the_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks"):
        report.with_figures("nothing", "new")


def test_a_missed_target_is_told_in_the_table(tmp_path: Path) -> None:
    stored(
        tmp_path, "http", Part("a", 1, [Target.exactly("fast enough", 1.2, 1.4), Target.exactly("small enough", 1.0, 1.05, better="lower")])
    )
    rows = [line for line in report.markdown(tmp_path).splitlines() if "enough" in line]
    assert rows == ["| fast enough | 1.20x |  | &ge; 1.40x | **no** |", "| small enough | 1.00x |  | &le; 1.05x | yes |"]


@pytest.mark.parametrize(("blas", "told"), [("SkylakeX", "NumPy 2.4; OpenBLAS kernels SkylakeX;"), (None, "NumPy 2.4; bootstrap")])
def test_the_figures_say_which_kernels_of_the_blas_they_belong_to(blas: str | None, told: str, tmp_path: Path) -> None:
    machine = {"cores": 2, "cpu": "a processor", "python": "3.11", "numpy": "2.4", "blas": blas}
    part = {"targets": [], "curves": [], "environment": machine}
    target = {"what": "x", "value": 1.0, "bound": "<= 1.05"}
    (tmp_path / "http.json").write_text(json.dumps({"parts": {"a": part}}))
    (tmp_path / "simulated.json").write_text(json.dumps({"targets": [target]}))
    assert told in report.markdown(tmp_path).splitlines()[0]


def test_the_figures_name_every_commit_that_they_are_of(tmp_path: Path) -> None:
    machine = {"cores": 2, "cpu": "a processor", "python": "3.11", "numpy": "2.4"}
    parts = {
        name: {"targets": [], "curves": [], "environment": machine | {"commit": of}}
        for name, of in (("a", "abc"), ("b", "def"), ("c", "abc"))
    }
    (tmp_path / "http.json").write_text(json.dumps({"parts": parts}))
    (tmp_path / "simulated.json").write_text(json.dumps({"targets": [{"what": "x", "value": 1.0, "bound": "<= 1.05"}]}))
    assert "; commit abc, def; " in report.markdown(tmp_path).splitlines()[0]


def test_faults_are_summed_and_a_failed_further_check_is_not_lost(tmp_path: Path) -> None:
    counts = [
        ("a: lost", 0),
        ("b: lost", 2),
        ("a: misrouted", 0),
        ("b: misrouted", 0),
        ("a: collateral failures", 0),
        ("b: collateral failures", 1),
        ("a: exit code", 3),
    ]
    stored(tmp_path, "faults", Part("all", 1, [Target.exactly(what, count, 0, better="lower", unit="") for what, count in counts]))
    assert [target.measured for target in report.all_targets(tmp_path)] == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("bound", "value", "met"),
    [("<= 1.05", 1.04, True), ("<= 1.05", 1.06, False), (">= 0.85 (aim 0.95)", 0.9, True), ("= 150", 150, True), ("= 150", 149, False)],
)
def test_the_bounds_of_the_simulated_device_are_read(bound: str, value: float, met: bool) -> None:
    assert report.simulated_target({"what": "x", "bound": bound, "value": value}).met is met


def test_a_bound_in_other_words_is_an_error_and_not_a_pass() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        report.simulated_target({"what": "x", "bound": "about 3", "value": 3})


def test_without_figures_readme_says_so(tmp_path: Path) -> None:
    assert "make bench" in report.markdown(tmp_path)


def test_the_same_curves_give_the_same_picture(tmp_path: Path) -> None:
    from dataclasses import asdict

    curves = asdict(Curves("c", "title", "x", "y", {"one": [(0, 1), (1, 2)], "two": [(0, 2), (1, 3)]}, bound=2.0))
    for name in ("a.svg", "b.svg"):
        draw(curves, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_of_the_batch_sizes_of_the_kernel_the_worst_is_told() -> None:
    ratios = [
        {"name": name, "median": low + 0.1, "low": low, "high": low + 0.2, "target": target, "aim": None}
        for name, low, target in (
            ("2 items together, of one at a time", 1.3, 1.0),
            ("3 items together, of one at a time", 0.9, 1.0),
            ("sparse", 3.1, 3.0),
            ("told, not wanted", 0.1, None),
        )
    ]
    found = report.kernel_targets({"numpy": {"ratios": ratios}})
    assert [(target.what, target.met) for target in found] == [
        ("kernel, numpy: sparse", True),
        ("kernel, numpy: 3 items together, of one at a time (the worst of 2 sizes)", False),
    ]


def test_a_void_part_is_no_figure(tmp_path: Path) -> None:
    stored(tmp_path, "http", Part("a", 1, [Target.exactly("fast enough", 1.5, 1.4)], void=["the generator was late"]))
    assert report.all_targets(tmp_path) == []
