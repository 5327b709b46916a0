"""Capacity: the highest open-loop rate with p99 below 250 ms and no refusals. And the saturated throughput, its first guess."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.drive import Sidecar
from bench.plans import Outcome, Plan
from bench.section import Bench
from bench.stats import Search

P99_BOUND_MS = 250.0
RESOLUTION = 0.03
CLIENTS = 96  # more than every place of two running batches and of the two that follow


@dataclass(frozen=True)
class Probe:
    """One rate that was tried."""

    rate: float
    p99_ms: float
    p50_ms: float
    answered: float
    held: bool


async def saturated(bench: Bench, server: Sidecar, *, batching: bool, seconds: float = 6.0) -> float:
    """Answers per second with as many closed-loop clients as the server can use."""
    plan = Plan(
        port=server.port, clients=CLIENTS, seconds=bench.span(seconds, 2), warm_up=bench.span(3, 1), batching=batching, timeout=30.0
    )
    return (await bench.run(plan)).rate


def held(outcome: Outcome) -> bool:
    """Whether everything was answered, and in time."""
    return set(outcome.statuses) <= {"200"} and outcome.hung == 0 and outcome.p99_ms < P99_BOUND_MS


async def capacity(bench: Bench, server: Sidecar, *, batching: bool) -> tuple[float, list[Probe]]:
    """The capacity and every rate tried. A rate that fails is tried once more: one hiccup of the machine is not the server's."""
    guess = await saturated(bench, server, batching=batching, seconds=4.0)
    search = Search(0.0, math.inf)
    probes: list[Probe] = []
    while (rate := search.next_rate(0.85 * guess, bench.span(RESOLUTION, 0.15))) is not None:
        if len(probes) >= 16:
            break
        bench.at(f"{'batched' if batching else 'direct'}, {rate:.0f}/s")
        for attempt in range(2):
            plan = Plan(
                port=server.port,
                rate=rate,
                seconds=bench.span(8, 2),
                warm_up=bench.span(2, 1),
                batching=batching,
                timeout=30.0,
                seed=100 * len(probes) + attempt,
            )
            outcome = await bench.run(plan)
            good = held(outcome)
            if good:
                break
        probes.append(Probe(rate, outcome.p99_ms, outcome.p50_ms, outcome.rate, good))
        search = search.after(rate, good)
    return search.good, probes
