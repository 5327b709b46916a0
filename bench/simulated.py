"""The batching decisions alone, on a simulated device in virtual time: T(n) = 20 + 0.5 n ms, at most 64 items.

The manager runs as it is, on an event loop whose clock jumps; rivals are small re-implementations of other servers' policies,
written for this comparison. Then from a cold start on devices that are bound by launches, as GPUs are (bench/launches.py).
Prints tables, writes JSON and SVG to bench/out, and with --check exits 1 on a missed target.

    python -m bench.simulated [--quick] [--check] [--out DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.launches import DEVICES, ColdStart, cold_start
from bench.servers import CAP, CAPACITY, FIXED, MARGINAL, OURS, SERVERS, Ours, Server, ShedError
from bench.virtual import virtual
from dtesn_sidecar.errors import DTESNError

WARM_UP = 5.0


@dataclass
class Measured:
    """One run of one server."""

    server: str
    rate: float
    seconds: float
    sent: int = 0
    answered: int = 0
    in_time: int = 0
    refused: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    goodput: float = 0.0
    utilization: float | None = None
    latencies: list[float] = field(default_factory=list, repr=False)

    def close(self) -> Measured:
        """Sum up."""
        ordered = sorted(self.latencies)
        if ordered:
            self.p50_ms = 1000 * ordered[len(ordered) // 2]
            self.p99_ms = 1000 * ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
        self.goodput = self.in_time / self.seconds
        self.latencies = []
        return self


async def one_request(server: Server, out: Measured, within: float, counted: bool) -> None:
    """Send one and note how it went."""
    clock = asyncio.get_running_loop().time
    sent = clock()
    try:
        await server.submit(None, within)
    except (DTESNError, ShedError):
        out.refused += counted
        return
    if counted:
        took = clock() - sent
        out.answered += 1
        out.in_time += took <= within + 1e-9
        out.latencies.append(took)


async def open_loop(name: str, rate: float, seconds: float, within: float, seed: int) -> Measured:
    """Poisson arrivals; the first WARM_UP seconds are not counted."""
    rng = random.Random(seed)
    out = Measured(name, rate, seconds)
    clock = asyncio.get_running_loop().time
    async with SERVERS[name]() as server:
        tasks: set[asyncio.Task[None]] = set()
        started = due = clock()
        reset = False
        while due < started + WARM_UP + seconds:
            due += rng.expovariate(rate)
            await asyncio.sleep(due - clock())
            counted = due >= started + WARM_UP
            if counted and not reset and isinstance(server, Ours):
                reset = True
                server.forget()
            out.sent += counted
            task = asyncio.get_running_loop().create_task(one_request(server, out, within, counted))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=30)
        if isinstance(server, Ours):
            out.utilization = server.utilization()
    return out.close()


async def burst(name: str, count: int, within: float, seed: int) -> Measured:
    """A quiet trickle, a second of nothing, then `count` at once: how many are answered in time."""
    rng = random.Random(seed)
    out = Measured(name, 0.0, 1.0)
    async with SERVERS[name]() as server:
        for _ in range(100):
            await one_request(server, out, within, False)
            await asyncio.sleep(rng.uniform(0, 0.02))
        await asyncio.sleep(1.0)
        out.sent = count
        await asyncio.gather(*(one_request(server, out, within, True) for _ in range(count)))
    return out.close()


async def closed_loop(name: str, clients: int, seconds: float, seed: int) -> Measured:
    """Clients that ask again 0.2 to 1 ms after each answer."""
    rng = random.Random(seed)
    out = Measured(name, float(clients), seconds)
    clock = asyncio.get_running_loop().time
    async with SERVERS[name]() as server:
        started = clock()

        async def client() -> None:
            while (now := clock()) < started + WARM_UP + seconds:
                counted = now >= started + WARM_UP
                out.sent += counted
                await one_request(server, out, 10.0, counted)
                await asyncio.sleep(rng.uniform(0.0002, 0.001))

        await asyncio.gather(*(client() for _ in range(clients)))
        if isinstance(server, Ours):
            out.utilization = server.utilization()
    return out.close()


@dataclass(frozen=True)
class Target:
    """One figure that must hold."""

    what: str
    value: float
    bound: str
    met: bool


def targets(
    low: dict[str, Measured],
    high: dict[str, Measured],
    over: dict[str, Measured],
    bursts: dict[str, Measured],
    sweep: dict[str, dict[str, Measured]],
    closed: dict[str, Measured],
    starts: list[ColdStart],
) -> list[Target]:
    """What sidecar and issue ask of the decisions."""
    out: list[Target] = []
    for label, runs in (("300 rps", low), ("1,100 rps", high)):
        ratio = runs["load_aware"].p99_ms / runs["plain just-in-time"].p99_ms
        out.append(Target(f"p99 at {label} over plain just-in-time", ratio, "<= 1.05", ratio <= 1.05))
    share = over["load_aware"].goodput / CAPACITY
    out.append(Target("2,000 rps, 200 ms deadlines: in time / capacity", share, ">= 0.97", share >= 0.97))
    out.append(Target("2,000 rps, 200 ms deadlines: p99 ms", over["load_aware"].p99_ms, "<= 200", over["load_aware"].p99_ms <= 200.0))
    out.append(Target("burst of 150 after idle: served", bursts["load_aware"].in_time, "= 150", bursts["load_aware"].in_time == 150))
    for label, runs in sweep.items():
        used = runs["load_aware"].utilization or 0.0
        ratio = runs["load_aware"].p99_ms / runs["just_in_time"].p99_ms
        out.append(Target(f"batch utilisation at {label} of saturation", used, ">= 0.85 (aim 0.95)", used >= 0.85))
        out.append(Target(f"p99 at {label} over just_in_time", ratio, "<= 1.15", ratio <= 1.15))
    ratio = closed["load_aware"].goodput / (32 / (FIXED + 32 * MARGINAL + 0.001))
    out.append(Target("32 closed-loop clients: rate over one batch of 32 at a time", ratio, ">= 0.95", ratio >= 0.95))
    out += [
        Target(f"T = {start.device} ms from a cold start: rate over the best fixed size", start.share, ">= 0.9", start.share >= 0.9)
        for start in starts
    ]
    return out


def cold_starts(starts: list[ColdStart]) -> Table:
    """How the devices bound by launches fared."""
    table = Table(
        "T of n items, ms",
        "best fixed size",
        "its rate/s",
        "rate/s",
        "share",
        "found by batch",
        "after s",
        title="saturated from a cold start, at most 128 items, defaults",
    )
    for start in starts:
        found = [str(start.batches), f"{start.seconds:.1f}"]
        table.add_row(start.device, str(start.best_size), f"{start.best_rate:.1f}", f"{start.rate:.1f}", f"{start.share:.1%}", *found)
    return table


def draw(path: Path, curves: dict[str, list[Measured]]) -> None:
    """p99 over rate, one curve per server."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, runs in curves.items():
        axes.plot(
            [run.rate for run in runs],
            [run.p99_ms for run in runs],
            marker="o",
            markersize=3,
            label=name,
            linewidth=2 if name in OURS else 1,
            linestyle="-" if name in OURS else "--",
        )
    axes.axvline(CAPACITY, color="grey", linewidth=0.8)
    axes.set_xlabel("requests per second (grey line: capacity)")
    axes.set_ylabel("p99 of answered requests, ms")
    axes.set_ylim(0, 260)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> int:
    """Run everything; 1 where --check is given and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs, no curves")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    options = parser.parse_args()
    console = Console()
    seconds = 20.0 if options.quick else 60.0
    names = list(SERVERS)
    saturated = CAPACITY
    jobs: list[tuple[str, str, Callable[[], Coroutine[Any, Any, Measured]]]] = []
    for name in names:
        jobs += [
            ("300", name, partial(open_loop, name, 300, seconds, 10.0, 1)),
            ("1100", name, partial(open_loop, name, 1100, seconds, 10.0, 2)),
            ("2000", name, partial(open_loop, name, 2000, seconds / 2, 0.2, 3)),
            ("burst", name, partial(burst, name, 150, 0.2, 4)),
            ("closed", name, partial(closed_loop, name, 32, 10.0, 5)),
        ]
    for name in OURS[:2]:
        for share in (0.5, 0.7):
            jobs.append((f"{share:.0%}", name, partial(open_loop, name, share * saturated, seconds, 10.0, 6)))
    rates = [] if options.quick else [100, 300, 500, 700, 900, 1000, 1100, 1200]
    for name in names:
        jobs += [("curve", name, partial(open_loop, name, rate, 20.0, 10.0, 7)) for rate in rates]
    results: dict[str, dict[str, Measured]] = {}
    curves: dict[str, list[Measured]] = {}
    starts: list[ColdStart] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("simulated device", total=len(jobs) + len(DEVICES))
        for scenario, name, job in jobs:
            measured = virtual(job())
            if scenario == "curve":
                curves.setdefault(name, []).append(measured)
            else:
                results.setdefault(scenario, {})[name] = measured
            progress.advance(bar)
        for device in DEVICES:
            starts.append(cold_start(device))
            progress.advance(bar)
    labels = {
        "300": "300 rps",
        "1100": "1,100 rps",
        "2000": "2,000 rps, 200 ms",
        "burst": "burst of 150, 200 ms",
        "closed": "32 closed-loop",
    }
    table = Table(
        "scenario",
        "policy",
        "p50 ms",
        "p99 ms",
        "in time/s",
        "refused",
        "utilisation",
        title=f"T(n) = 20 + 0.5 n ms, cap {CAP}, capacity {CAPACITY:.0f}/s, virtual time",
    )
    for scenario, runs in results.items():
        for name, run in runs.items():
            used = "" if run.utilization is None else f"{run.utilization:.1%}"
            table.add_row(
                labels.get(scenario, f"{scenario} of saturation"),
                name,
                f"{run.p50_ms:.1f}",
                f"{run.p99_ms:.1f}",
                f"{run.goodput:.0f}",
                str(run.refused),
                used,
            )
        table.add_section()
    console.print(table)
    checked = targets(
        results["300"],
        results["1100"],
        results["2000"],
        results["burst"],
        {share: results[share] for share in ("50%", "70%")},
        results["closed"],
        starts,
    )
    console.print(cold_starts(starts))
    verdicts = Table("target", "measured", "bound", "met")
    for target in checked:
        verdicts.add_row(target.what, f"{target.value:.3f}", target.bound, "yes" if target.met else "[bold red]NO")
    console.print(verdicts)
    options.out.mkdir(parents=True, exist_ok=True)
    document = {
        "device": {"fixed_ms": 1000 * FIXED, "marginal_ms": 1000 * MARGINAL, "cap": CAP, "capacity_rps": CAPACITY},
        "results": {scenario: {name: asdict(run) for name, run in runs.items()} for scenario, runs in results.items()},
        "curves": {name: [asdict(run) for run in runs] for name, runs in curves.items()},
        "cold_starts": [asdict(start) for start in starts],
        "targets": [asdict(target) for target in checked],
    }
    (options.out / "simulated.json").write_text(json.dumps(document, indent=1) + "\n")
    if curves:
        draw(options.out / "simulated.svg", curves)
    return int(options.check and not all(target.met for target in checked))


if __name__ == "__main__":
    sys.exit(main())
