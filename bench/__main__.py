"""The whole benchmark, section by section, with one table of all targets at the end.

Each section is a program of its own, and what one has measured is kept at once (bench/out): after an interruption,
`--resume` goes on with the sections that are missing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time

from rich.console import Console

from bench.report import all_targets
from bench.results import DOCS, OUT, ROOT, target_table

# Name, how long it takes, arguments of a quick pass. kernel and simulated keep their own form of JSON.
SECTIONS: dict[str, tuple[str, list[str]]] = {
    "kernel": ("about 3 minutes", ["--blocks", "2"]),
    "simulated": ("about 5 minutes", ["--quick"]),
    "http": ("about 27 minutes", ["--quick"]),
    "overload": ("about 3.5 minutes", ["--quick"]),
    "faults": ("about 3 minutes", ["--quick"]),
    "memory": ("about 10.5 minutes", ["--quick"]),
    "startup": ("about 1 minute", ["--quick"]),
    "load": ("about 6 minutes", ["--quick"]),
    "readouts": ("about 1 minute", ["--quick"]),
    "operator": ("about 15 minutes, and 10 more where the test cluster was never built", ["--quick"]),
}
OWN_FORM = ("kernel", "simulated")


def main() -> int:
    """Run the sections; 1 where one of them failed to measure, whatever the figures say."""
    lines = "\n".join(f"  {name:<10} {duration}" for name, (duration, _) in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=f"{__doc__}\nsections:\n{lines}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="comma-separated sections")
    parser.add_argument("--quick", action="store_true", help="short stretches, for a smoke test and not for figures")
    parser.add_argument("--save", action="store_true", help="keep figures and curves in docs/bench and write README's table")
    parser.add_argument("--resume", action="store_true", help="leave out sections that bench/out has results of")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        parser.error(f"unknown section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if options.save and options.quick:
        parser.error("--save with --quick: a quick pass gives no figures worth keeping")
    console = Console()
    failed = []
    for name in chosen:
        result = OUT / f"{name}.json"
        if options.resume and result.exists():
            console.print(f"[dim]{name}: measured before[/]")
            continue
        result.unlink(missing_ok=True)
        console.rule(f"{name}, {SECTIONS[name][0] if not options.quick else 'quick'}")
        began = time.monotonic()
        if run(name, quick=options.quick, save=options.save) != 0:
            failed.append(name)
        console.print(f"[dim]{name}: {(time.monotonic() - began) / 60:.1f} minutes[/]")
    console.print(target_table(all_targets(OUT), "All targets"))
    if options.save:
        subprocess.run([sys.executable, "-m", "bench.report"], cwd=ROOT, check=True)
    if failed:
        console.print(f"[bold red]could not be measured: {', '.join(failed)}[/]")
    return int(bool(failed))


def run(name: str, *, quick: bool, save: bool) -> int:
    """One section in its own process; the exit status."""
    arguments = SECTIONS[name][1] if quick else []
    if save and name not in OWN_FORM:
        arguments = [*arguments, "--save"]
    status = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], cwd=ROOT, check=False).returncode
    if status == 0 and save and name in OWN_FORM:
        DOCS.mkdir(parents=True, exist_ok=True)
        for kept in (OUT / f"{name}.json", OUT / f"{name}.svg"):
            if kept.exists():
                shutil.copyfile(kept, DOCS / kept.name)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
