"""`make demo`: real sentences from many concurrent clients to a real server, unbatched and batched, every answer checked.

Starts the sidecar on the NumPy backend. Exit code 0 only if every answer equals the one computed alone.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.drive import Load, Sidecar, load_generator, sidecar
from bench.expected import features_alone, write_features, write_summaries
from bench.plans import Outcome, Plan
from bench.results import figure
from bench.stats import abba, quantile
from bench.texts import sentences
from dtesn_api.spec import ModelConfiguration

TEXTS = 128
CLIENTS = 64
BLOCKS = 4
SECONDS = 4.0


@dataclass
class Side:
    """What was measured without or with batching."""

    batching: bool
    outcomes: list[Outcome] = field(default_factory=list)
    estimates: list[float] = field(default_factory=list)
    items: float = 0.0
    places: float = 0.0

    @property
    def rate(self) -> float:
        """Mean answers per second."""
        return float(np.mean([outcome.rate for outcome in self.outcomes]))

    def latency(self, q: float) -> float:
        """Quantile over all blocks, in ms."""
        return quantile([ms for outcome in self.outcomes for ms in outcome.latencies_ms], q)


async def measure(load: Load, server: Sidecar, sides: dict[bool, Side], summaries: Path, progress: Progress) -> None:
    """Interleaved blocks, so that a drift of the machine favours neither side."""
    task = progress.add_task("under load", total=2 * BLOCKS)
    for block, batching in abba(BLOCKS):
        progress.update(task, description=f"{CLIENTS} clients, {'batched' if batching else 'unbatched'}")
        before = server.counters()
        plan = Plan(
            port=server.port,
            clients=CLIENTS,
            seconds=SECONDS,
            warm_up=1.0,
            batching=batching,
            timeout=60.0,
            texts="sentences",
            text_count=TEXTS,
            seed=block,
            expected=str(summaries),
        )
        side = sides[batching]
        side.outcomes.append(await load.run(plan))
        after = server.counters()
        side.items += after["dtesn_batch_items_total"] - before["dtesn_batch_items_total"]
        side.places += after["dtesn_batch_places_total"] - before["dtesn_batch_places_total"]
        own = server.json("/dtesn/batch_metrics")["metrics"]["throughput_improvement"]  # of batches: no figure after direct runs alone
        if batching and own is not None:
            side.estimates.append(1 + own / 100)
        progress.advance(task)


async def check_features(load: Load, server: Sidecar, expected: Path, progress: Progress) -> list[Outcome]:
    """Every feature of the answers, not just norms and means: unbatched and batched, a few seconds each."""
    task = progress.add_task("comparing all features", total=2)
    outcomes = []
    for batching in (False, True):
        plan = Plan(
            port=server.port,
            clients=32,
            seconds=2.5,
            warm_up=0.0,
            batching=batching,
            timeout=60.0,
            texts="sentences",
            text_count=TEXTS,
            output="features",
            expected=str(expected),
        )
        outcomes.append(await load.run(plan))
        progress.advance(task)
    return outcomes


def alone(texts: list[str], progress: Progress) -> NDArray[np.float32]:
    """What each text gives when it is computed alone."""
    task = progress.add_task("each text alone, by the library", total=len(texts))
    return features_alone(texts, ModelConfiguration(), lambda: progress.advance(task))


def print_result(console: Console, sides: dict[bool, Side]) -> None:
    """The table."""
    gain = sides[True].rate / sides[False].rate
    table = Table(title=f"{TEXTS} sentences of Python's documentation, {CLIENTS} concurrent clients, L = 4, N = 512", title_justify="left")
    for column in ("", "requests/s", "p50", "p99", "batch utilisation", "improvement"):
        table.add_column(column, justify="right" if column else "left")
    for batching, name in ((False, "unbatched"), (True, "batched")):
        side = sides[batching]
        used = figure(side.items / side.places, "%") if batching and side.places else ""
        gained = f"[bold green]{gain:.2f}x" if batching else ""
        table.add_row(name, f"{side.rate:.0f}", figure(side.latency(0.5), "ms"), figure(side.latency(0.99), "ms"), used, gained)
    console.print(table)
    if sides[True].estimates:
        own = float(np.mean(sides[True].estimates))
        console.print(f"measured outside: {gain:.2f}x; the server's own estimate: {own:.2f}x ({own / gain - 1:+.0%})")


def verdict(console: Console, outcomes: list[Outcome], features: list[Outcome]) -> bool:
    """Whether every request was answered, and rightly."""
    everything = [*outcomes, *features]
    checked, wrong = sum(o.checked for o in everything), sum(o.wrong for o in everything)
    unanswered = sum(o.hung + o.broken + o.failed for o in everything)
    worst = max(o.worst for o in features)
    good = wrong == 0 and unanswered == 0 and all(o.checked > 0 for o in everything)
    colour = "green" if good else "bold red"
    console.print(
        f"[{colour}]{checked - wrong:,} of {checked:,} answers equal the one computed alone"
        f"{'' if unanswered == 0 else f', and {unanswered} requests had no answer'}[/]"
        f" (largest difference of any feature: {worst:.1e}; allowed: 2e-6)"
    )
    return good


async def demo(console: Console) -> bool:
    """The whole."""
    texts = sentences(TEXTS)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    sides = {batching: Side(batching) for batching in (False, True)}
    with tempfile.TemporaryDirectory(prefix="dtesn-demo-") as folder, Progress(*columns, console=console) as progress:
        summaries, expected = Path(folder) / "summaries.npz", Path(folder) / "features.npz"
        found = await asyncio.to_thread(alone, texts, progress)
        write_summaries(summaries, found, texts)
        write_features(expected, found)
        task = progress.add_task("starting the sidecar", total=1)
        async with sidecar() as server, load_generator() as load:
            progress.advance(task)
            features = await check_features(load, server, expected, progress)
            await measure(load, server, sides, summaries, progress)
    print_result(console, sides)
    return verdict(console, [outcome for side in sides.values() for outcome in side.outcomes], features)


def main() -> int:
    """0 only if all answers agree."""
    return 0 if asyncio.run(demo(Console())) else 1


if __name__ == "__main__":
    sys.exit(main())
