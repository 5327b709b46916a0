"""What the sections share: their command line, one load generator, progress, and keeping each part's result at once."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.drive import Load, load_generator
from bench.neighbours import QUIET, Neighbours
from bench.plans import Outcome, Plan, void_reasons
from bench.results import Part, show, store


@dataclass(frozen=True)
class Attempt:
    """A plan carried out once, and the share of the machine that others took meanwhile."""

    outcome: Outcome
    others: float

    @property
    def spoilt(self) -> bool:
        """Whether it should be done again: for what the generator or others did, never for what the server did."""
        return self.others > QUIET or bool(void_reasons(self.outcome))

    def order(self) -> tuple[bool, float]:
        """Least spoilt first."""
        return bool(void_reasons(self.outcome)), self.others


@dataclass
class Bench:
    """What a part needs to measure."""

    load: Load
    console: Console
    quick: bool
    options: argparse.Namespace
    void: list[str] = field(default_factory=list)
    slips: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    _advance: Callable[[str], None] = lambda _: None

    def span(self, full: float, quick: float) -> float:
        """Seconds (or blocks) of a full or of a quick pass."""
        return quick if self.quick else full

    def blocks(self) -> int:
        """Interleaved blocks of a comparison."""
        return 2 if self.quick else 10

    def at(self, what: str) -> None:
        """Tell what is measured now."""
        self._advance(what)

    async def attempt(self, plan: Plan) -> Attempt:
        """Carry a plan out once. Whether it counts is for `keep` to say."""
        neighbours = Neighbours()
        outcome = await self.load.run(plan)
        return Attempt(outcome, await asyncio.to_thread(neighbours.share))

    def keep(self, attempt: Attempt) -> Outcome:
        """This one counts; a generator that was late voids the part."""
        self.void += void_reasons(attempt.outcome)
        self.slips.append(attempt.outcome.slip_p99_ms)
        self.cpus.append(attempt.outcome.cpu)
        self.others.append(attempt.others)
        return attempt.outcome

    async def run(self, plan: Plan, *, tries: int = 4) -> Outcome:
        """Carry a plan out, again where the generator was late or others used the machine; the least spoilt attempt counts."""
        attempts = [await self.attempt(plan)]
        while attempts[-1].spoilt and len(attempts) < tries:
            attempts.append(await self.attempt(plan))
        return self.keep(min(attempts, key=Attempt.order))

    def generator(self) -> str:
        """The generator's slip and CPU, for the foot of a table."""
        if not self.slips:
            return "no load"
        generator = f"generator: slip p99 at most {max(self.slips):.1f} ms, {100 * max(self.cpus):.0f} % of a core"
        return f"{generator}; others: {100 * median(self.others):.1f} % of the machine, at most {100 * max(self.others):.0f} %"


Measure = Callable[[Bench], Awaitable[Part]]


def arguments(section: str, description: str | None, parts: Mapping[str, tuple[Measure, str]]) -> argparse.ArgumentParser:
    """The command line of a section; `parts` maps a name to its function and how long that takes."""
    lines = "\n".join(f"  {name:<14} {duration}" for name, (_, duration) in parts.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{section}",
        description=f"{description}\n\nparts:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help=f"comma-separated parts of: {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="short stretches, for a smoke test and not for figures")
    parser.add_argument("--save", action="store_true", help="keep the figures in docs/bench too")
    return parser


def main(section: str, parser: argparse.ArgumentParser, parts: Mapping[str, tuple[Measure, str]]) -> int:
    """Measure the parts one after the other; 0 once all were measured, whatever the figures say."""
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(parts)
    if unknown := sorted(set(chosen) - set(parts)):
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(parts)}")
    if options.save and options.quick:
        parser.error("--save with --quick: a quick pass gives no figures worth keeping")
    asyncio.run(_measure(section, options, {name: parts[name][0] for name in chosen}))
    return 0


async def _measure(section: str, options: argparse.Namespace, parts: Mapping[str, Measure]) -> None:
    console = Console()
    async with load_generator() as load:
        for name, measure in parts.items():
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                task = progress.add_task(f"{section}: {name}", total=None)

                def advance(what: str, name: str = name, progress: Progress = progress, task: TaskID = task) -> None:
                    progress.update(task, description=f"{section}: {name}: {what}")

                bench = Bench(load, console, options.quick, options, _advance=advance)
                began = time.monotonic()
                part = await measure(bench)
            data = {**part.data, **({"others": [round(share, 4) for share in bench.others]} if bench.others else {})}
            part = replace(part, seconds=round(time.monotonic() - began, 1), void=[*part.void, *bench.void], data=data)
            show(console, part)
            console.print(f"[dim]{bench.generator()}; {part.seconds:.0f} s[/]")
            store(section, part, quick=options.quick, save=options.save)
