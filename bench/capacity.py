"""Capacity: the highest open-loop rate with p99 below 250 ms and no refusals. And the saturated throughput, its yardstick.

A shared machine changes its speed within a minute. So capacity is sought as a share of the saturated throughput that is measured
just before each probe, and whoever needs a rate takes that share of a fresh measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.drive import Sidecar
from bench.plans import Outcome, Plan
from bench.section import Bench
from bench.stats import Search, median_interval

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
    share: float  # of the saturated throughput just before


async def saturated(bench: Bench, server: Sidecar, *, batching: bool, seconds: float = 6.0) -> float:
    """Answers per second with as many closed-loop clients as the server can use."""
    plan = Plan(
        port=server.port, clients=CLIENTS, seconds=bench.span(seconds, 2), warm_up=bench.span(2, 1), batching=batching, timeout=30.0
    )
    return (await bench.run(plan)).rate


def held(outcome: Outcome) -> bool:
    """Whether everything was answered, and in time."""
    return set(outcome.statuses) <= {"200"} and outcome.hung == 0 and outcome.p99_ms < P99_BOUND_MS


@dataclass(frozen=True)
class Capacity:
    """What was found: capacity as a share of the saturated throughput, that throughput (median), and the rates tried."""

    share: float
    saturated: float
    probes: list[Probe]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.share * self.saturated


async def capacity(bench: Bench, server: Sidecar, *, batching: bool) -> Capacity:
    """Search for it. A rate that fails is tried once more: one hiccup of the machine is not the server's."""
    search = Search(0.0, math.inf)
    probes: list[Probe] = []
    speeds: list[float] = []
    while (share := search.next_rate(0.85, bench.span(RESOLUTION, 0.15))) is not None and len(probes) < 16:
        for attempt in range(2):
            bench.at(f"{'batched' if batching else 'direct'}, {share:.0%} of saturated")
            speeds.append(await saturated(bench, server, batching=batching, seconds=3.0))
            plan = Plan(
                port=server.port,
                rate=max(1.0, share * speeds[-1]),
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
        probes.append(Probe(share * speeds[-1], outcome.p99_ms, outcome.p50_ms, outcome.rate, good, share))
        search = search.after(share, good)
    return Capacity(search.good, median_interval(speeds).median, probes)
