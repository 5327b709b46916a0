"""Whether the server's own estimate of its improvement is honest: beside the ratio of throughputs measured from outside.

Two servers, loaded in turns. The one that batches is never asked for anything unbatched: it has no baseline but what it measures itself.
The ratio is shown per second and per CPU second of the server's processes: beside a busy neighbour, who takes from one turn more than from
another, only the latter can be trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.drive import Sidecar, sidecar
from bench.plans import Plan
from bench.results import Part, Table, Target, figure
from bench.section import Bench
from bench.stats import abba, median_interval

FLATTERY = 1.15
"""The estimate may be so many times what is measured, in the median; less is modesty."""

WINDOW = 20
"""Batches that the estimate is of: few enough that they are all of the turn that it stands beside."""


@dataclass(frozen=True)
class Situation:
    """A closed loop of `clients`, and what differs from the default configuration."""

    name: str
    clients: int = 64
    texts: Literal["mixed", "sentences"] = "mixed"
    batching: Mapping[str, Any] = field(default_factory=dict)


SITUATIONS = (
    Situation("64 clients, sentences", texts="sentences"),
    Situation("64 clients"),
    Situation("16 clients", clients=16),
    Situation("6 clients", clients=6),
    Situation("64 clients, batches of at most 4", batching={"maxBatchSize": 4, "targetBatchSize": 4}),
    Situation("64 clients, one batch at once", batching={"maxConcurrentBatches": 1}),
)


def estimate(server: Sidecar) -> float:
    """The server's own figure as a ratio. RuntimeError where it has none."""
    metrics = server.json("/dtesn/batch_metrics")["metrics"]
    if metrics["throughput_improvement"] is None:
        raise RuntimeError(f"the server knows no improvement after a batched block: {metrics}")
    return 1.0 + float(metrics["throughput_improvement"]) / 100.0


def spent(server: Sidecar) -> tuple[float, float]:
    """Requests answered and CPU seconds of all its processes, since its start."""
    seconds = sum(times.user + times.system for times in (process.cpu_times() for process in server.processes()))
    return server.counters()["dtesn_requests_total"], seconds


async def measured(bench: Bench, servers: Mapping[bool, Sidecar], situation: Situation) -> dict[str, list[float]]:
    """By block: the ratio of throughputs, the same per CPU second, and the estimate at the end of the batched turn."""
    for server in servers.values():
        server.spec.pop("batching", None)
        await server.reconfigure(performanceWindowSize=WINDOW, **situation.batching)
    rates: dict[bool, list[float]] = {False: [], True: []}
    frugal: dict[bool, list[float]] = {False: [], True: []}
    own: list[float] = []
    for block, batching in abba(int(bench.span(4, 1))):
        bench.at(f"{situation.name}, block {block + 1}, {'batched' if batching else 'direct'}")
        plan = Plan(
            port=servers[batching].port,
            clients=situation.clients,
            seconds=bench.span(4, 2),
            warm_up=1.5,
            batching=batching,
            timeout=60.0,
            texts=situation.texts,
            seed=block,
        )
        requests, seconds = await asyncio.to_thread(spent, servers[batching])
        rates[batching].append((await bench.run(plan)).rate)
        requests_then, seconds_then = await asyncio.to_thread(spent, servers[batching])
        frugal[batching].append((requests_then - requests) / (seconds_then - seconds))
        if batching:
            own.append(await asyncio.to_thread(estimate, servers[True]))
    outside, per_cpu = ([b / a for a, b in zip(side[False], side[True], strict=True)] for side in (rates, frugal))
    return {"outside": outside, "per_cpu_second": per_cpu, "own": own}


async def improvement(bench: Bench) -> Part:
    """The server's estimate over the measured ratio, in each situation."""
    targets, rows, data = [], [], dict[str, Any]()
    async with AsyncExitStack() as stack:
        servers = {batching: await stack.enter_async_context(sidecar()) for batching in (False, True)}
        await asyncio.sleep(bench.span(3, 1))  # idle, as it is before the first request: the baseline is measured
        for situation in SITUATIONS:
            found = data[situation.name] = await measured(bench, servers, situation)
            over = median_interval([a / b for a, b in zip(found["own"], found["outside"], strict=True)])
            rows.append(
                (situation.name, *(figure(median_interval(each).median, "x") for each in found.values()), f"{over.median - 1:+.0%}")
            )
            targets.append(Target.of(f"own estimate over measured improvement, {situation.name}", over, FLATTERY, 1.0, better="lower"))
    table = Table(
        "throughput batched over unbatched, closed loop, mixed-length text unless said",
        ("", "measured outside", "per CPU second", "server's own estimate", "over measured outside"),
        rows,
    )
    return Part("improvement", 0, targets, [table], data=data)
