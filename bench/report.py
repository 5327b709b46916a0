"""Every section's targets in one table, and README's figures, which are written from docs/bench/*.json by nobody's hand.

python -m bench.report            write README's figures and the pictures
python -m bench.report --check    change nothing, exit 1 where README differs
python -m bench.report --print    the table of what was measured last (bench/out)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.curves import draw
from bench.results import DOCS, OUT, ROOT, Target, figure, target_table, wanted
from bench.stats import Interval

SECTIONS = ("http", "overload", "faults", "memory", "startup", "load", "readouts", "operator", "kernel", "simulated")
README = ROOT / "README.md"
TOGETHER = "items together, of one at a time"
BEGIN, END = "<!-- figures: written by `make figures` -->", "<!-- end of figures -->"


def parts_of(folder: Path, section: str) -> dict[str, Any]:
    """The parts of a section as stored; {} where there are none."""
    file = folder / f"{section}.json"
    if not file.exists():
        return {}
    document = json.loads(file.read_text(encoding="utf-8"))
    parts = document.get("parts", {})
    return parts if isinstance(parts, dict) else {}


def targets_of(folder: Path, section: str) -> list[Target]:
    """A section's targets, whichever way it keeps them; a void part measured nothing."""
    file = folder / f"{section}.json"
    if not file.exists():
        return []
    document = json.loads(file.read_text(encoding="utf-8"))
    match section:
        case "kernel":
            return kernel_targets(document)
        case "simulated":
            return [simulated_target(target) for target in document["targets"]]
        case _:
            return [Target(**target) for part in document["parts"].values() if not part.get("void") for target in part["targets"]]


def kernel_targets(document: Mapping[str, Any]) -> list[Target]:
    """bench/kernel.py's ratios with a target, by backend; of those for each number of items together, the worst."""
    found: list[Target] = []
    for backend in ("numpy", "cupy"):
        ratios = [ratio for ratio in document.get(backend, {}).get("ratios", ()) if ratio["target"] is not None]
        together = [ratio for ratio in ratios if ratio["name"].endswith(TOGETHER)]
        for ratio in [ratio for ratio in ratios if ratio not in together] + sorted(together, key=lambda ratio: float(ratio["low"]))[:1]:
            name = ratio["name"] + (f" (the worst of {len(together)} sizes)" if ratio in together else "")
            interval = Interval(ratio["median"], ratio["low"], ratio["high"])
            found.append(Target.of(f"kernel, {backend}: {name}", interval, ratio["target"], ratio["aim"]))
    return found


def simulated_target(target: Mapping[str, Any]) -> Target:
    """bench/simulated.py's targets say their bound in words: `<= 1.05`, `>= 0.85 (aim 0.95)`, `= 150`."""
    found = re.fullmatch(r"(<=|>=|=) ([\d.]+)(?: \(aim ([\d.]+)\))?", target["bound"])
    if found is None:
        raise ValueError(f"bench/simulated.py: a bound that cannot be read: {target['bound']}")
    sign, bound, aim = found.groups()
    unit = "" if sign == "=" else "ms" if target["what"].endswith(" ms") else "%" if sign == ">=" else "x"
    what = "simulated device: " + target["what"].removesuffix(" ms")
    return Target.exactly(
        what, target["value"], float(bound), float(aim) if aim else None, better="lower" if sign == "<=" else "higher", unit=unit
    )


def all_targets(folder: Path) -> list[Target]:
    """Every target of every section, faults summed up."""
    found: list[Target] = []
    for section in SECTIONS:
        targets = targets_of(folder, section)
        found += summed(targets) if section == "faults" else targets
    return found


def summed(targets: list[Target]) -> list[Target]:
    """The three counts of the faults, each over all faults, and whether all that was asked beside them held."""
    if not targets:
        return []
    lines = []
    for what in ("lost", "misrouted", "collateral failures"):
        each = [target for target in targets if target.what.endswith(f": {what}")]
        count = sum(target.measured or 0 for target in each)
        lines.append(Target.exactly(f"{what}, over {len(each)} faults under full load", count, 0, better="lower", unit=""))
    missed = [
        target
        for target in targets
        if not target.met and not any(target.what.endswith(f": {w}") for w in ("lost", "misrouted", "collateral failures"))
    ]
    lines.append(Target.exactly("further checks of these faults that failed", len(missed), 0, better="lower", unit=""))
    return lines


def markdown(folder: Path) -> str:
    """README's block: the machine, the table, the picture."""
    targets = all_targets(folder)
    if not targets:
        return "No figures are kept in `docs/bench` yet: `make bench ARGS=--save` measures them."
    environments = [part["environment"] for section in SECTIONS for part in parts_of(folder, section).values()]
    where = ""
    if environments:
        machine = environments[0]
        where = f"Measured on {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, NumPy {machine['numpy']}; "
        where += f"OpenBLAS kernels {machine['blas']}; " if machine.get("blas") else ""
        commits = dict.fromkeys(each["commit"] for each in environments if each.get("commit"))
        where += f"commit {', '.join(commits)}; " if commits else ""
        where += "bootstrap 95 % intervals.\n\n"
    rows = ["| what | measured | interval | wanted | met |", "| --- | ---: | ---: | ---: | --- |"]
    for target in targets:
        interval = "" if target.low == target.high else f"{figure(target.low, target.unit)} to {figure(target.high, target.unit)}"
        sign = wanted(target).replace(">=", "&ge;").replace("<=", "&le;")
        rows.append(
            f"| {target.what} | {figure(target.measured, target.unit)} | {interval} | {sign} | {'yes' if target.met else '**no**'} |"
        )
    pictures = [
        f"![{curves['title']}](docs/bench/{curves['name']}.svg)" for curves in stored_curves(folder) if curves["name"] == "capacity"
    ]
    return where + "\n".join([*rows, *(["", *pictures] if pictures else [])])


def stored_curves(folder: Path) -> list[dict[str, Any]]:
    """The curves of all sections."""
    return [curves for section in SECTIONS for part in parts_of(folder, section).values() for curves in part["curves"]]


def with_figures(readme: str, block: str) -> str:
    """README with its block replaced. Raises ValueError where the marks are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> int:
    """Write, check or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where README's figures differ from docs/bench")
    parser.add_argument("--print", action="store_true", help="the table of what was measured last (bench/out)")
    options = parser.parse_args()
    if options.print:
        Console().print(target_table(all_targets(OUT), "All targets"))
        return 0
    readme = README.read_text(encoding="utf-8")
    fresh = with_figures(readme, markdown(DOCS))
    if options.check:
        if fresh != readme:
            print("README's figures differ from docs/bench; run `make figures`", file=sys.stderr)
        return int(fresh != readme)
    README.write_text(fresh, encoding="utf-8")
    for curves in stored_curves(DOCS):
        draw(curves, DOCS / f"{curves['name']}.svg")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
