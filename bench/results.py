"""What a benchmark leaves behind: targets, tables and curves, as JSON in bench/out and, with --save, in docs/bench.

A section (`http`, `overload`, ...) has parts; running one part again replaces that part alone.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from bench.stats import Interval
from dtesn_sidecar.model.blas import kernels

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out"
DOCS = ROOT / "docs" / "bench"

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Target:
    """One claim: the measured figure, its interval, and what it must be at least (or at most)."""

    what: str
    measured: float | None
    low: float | None
    high: float | None
    bound: float
    aim: float | None = None
    better: Better = "higher"
    unit: str = "x"

    @classmethod
    def of(
        cls, what: str, interval: Interval, bound: float, aim: float | None = None, *, better: Better = "higher", unit: str = "x"
    ) -> Target:
        """From a median with its interval."""
        return cls(what, interval.median, interval.low, interval.high, bound, aim, better, unit)

    @classmethod
    def exactly(
        cls, what: str, value: float, bound: float, aim: float | None = None, *, better: Better = "higher", unit: str = "x"
    ) -> Target:
        """From a figure without an interval: a count, or one long run."""
        return cls(what, value, value, value, bound, aim, better, unit)

    @property
    def met(self) -> bool:
        """Whether the worse end of the interval meets the bound. What was not measured is not met."""
        return self._reaches(self.bound)

    @property
    def aim_met(self) -> bool | None:
        """The same for the aim; None without one."""
        return None if self.aim is None else self._reaches(self.aim)

    def _reaches(self, bound: float) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low >= bound if self.better == "higher" else self.high <= bound


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Curves:
    """Lines for one picture: points (x, y) by the name of the line."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    bound: float | None = None
    log_y: bool = False


@dataclass(frozen=True)
class Part:
    """One measurement with everything that it shows. `void` says why it counts for nothing; empty: it counts."""

    name: str
    seconds: float
    targets: Sequence[Target] = ()
    tables: Sequence[Table] = ()
    curves: Sequence[Curves] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    void: Sequence[str] = ()


def environment() -> dict[str, Any]:
    """The machine and the libraries that a figure belongs to; of OpenBLAS the kernels, which differ in speed by a factor of two."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": kernels(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "commit": commit(),
    }


@functools.cache
def commit() -> str | None:
    """The commit that is measured, with `-dirty` where files other than the figures differ from it; None where that is not known."""
    try:
        asked, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10)
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", ".", ":!docs/bench", ":!README.md"))
        )
    except OSError:
        return None
    name = asked.stdout.strip()
    return f"{name}-dirty" if name and changed.stdout.strip() else name or None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def store(section: str, part: Part, *, quick: bool, save: bool) -> None:
    """Merge the part into the section's JSON."""
    if save and quick:
        raise SystemExit("--save with --quick: a quick pass gives no figures worth keeping")
    for folder in (OUT, DOCS) if save else (OUT,):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{section}.json"
        document = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        parts = {**document.get("parts", {}), part.name: asdict(part) | {"quick": quick, "environment": environment()}}
        file.write_text(json.dumps({"section": section, "parts": parts}, indent=1, default=float) + "\n", encoding="utf-8")


def load_part(section: str, part: str, folder: Path = OUT) -> dict[str, Any] | None:
    """A part as stored, or None."""
    file = folder / f"{section}.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8")).get("parts", {}).get(part)
    return found if isinstance(found, dict) else None


def figure(value: float | None, unit: str) -> str:
    """A figure as people read it: 1.43x, 87.2 %, 24.1 ms, 0."""
    if value is None:
        return "-"
    match unit:
        case "%":
            return f"{100 * value:.1f} %"
        case "x":
            return f"{value:.2f}x"
        case "ms":
            return f"{value:.1f} ms"
        case "":
            return f"{value:,.0f}"
        case _:
            return f"{value:,.1f} {unit}"


def wanted(target: Target) -> str:
    """The bound as people read it."""
    return f"{'>=' if target.better == 'higher' else '<='} {figure(target.bound, target.unit)}"


def show(console: Console, part: Part) -> None:
    """Print a part."""
    for table in part.tables:
        shown = RichTable(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if index == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for reason in part.void:
        console.print(f"[bold red]void:[/] {reason}")
    if part.targets:
        console.print(target_table(part.targets))


def target_table(targets: Sequence[Target], title: str | None = None) -> RichTable:
    """what | measured | interval | at least | aim | met"""
    shown = RichTable(title=title, title_justify="left")
    for index, column in enumerate(("what", "measured", "interval", "at least", "aim", "met")):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for target in targets:
        verdict = "[green]yes, and the aim" if target.met and target.aim_met else "[green]yes" if target.met else "[bold red]no"
        shown.add_row(
            target.what,
            figure(target.measured, target.unit),
            "" if target.low == target.high else f"{figure(target.low, target.unit)} .. {figure(target.high, target.unit)}",
            wanted(target),
            "" if target.aim is None else figure(target.aim, target.unit),
            verdict,
        )
    return shown
