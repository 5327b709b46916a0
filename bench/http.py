"""The server over HTTP, unbatched and batched: throughput, capacity, latency, utilisation. Both sides in one run, interleaved.

Text of mixed lengths (`bench.texts.mixed`), the default model (L = 4, N = 512), NumPy; both sides use all workers.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial

from bench.capacity import CLIENTS, P99_BOUND_MS, Capacity, capacity, saturated
from bench.drive import Sidecar, sidecar
from bench.improvement import improvement
from bench.plans import Outcome, Plan
from bench.results import Curves, Part, Table, Target, figure, load_part
from bench.section import Attempt, Bench, Measure, arguments, main
from bench.stats import abba, median_interval, quantile

SIDES = ("direct", "batched")
LONE_BLOCKS = 20  # the bound is 5 % away, and a block varies by as much
UTILISATION_BLOCKS = 16  # a ratio of two p99 varies by tens of percent, and its interval must end below 1.15


async def settle(bench: Bench, server: Sidecar) -> None:
    """Five seconds of load that count for nothing: calibration, cost model and adaptive sizes find their values."""
    bench.at("warm-up")
    outcome = await bench.load.run(Plan(port=server.port, clients=CLIENTS, seconds=bench.span(5, 1), timeout=30.0))
    if outcome.rate == 0:
        raise RuntimeError(f"the server answers nothing ({outcome.statuses}); the end of its log:\n{server.tail()}")


async def throughput(bench: Bench) -> Part:
    """Saturated: as many closed-loop clients as the server can use."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    latencies: dict[bool, list[float]] = {False: [], True: []}
    async with sidecar() as server:
        await settle(bench, server)
        for block, batching in abba(bench.blocks()):
            bench.at(f"block {block + 1}, {SIDES[batching]}")
            plan = Plan(port=server.port, clients=CLIENTS, seconds=bench.span(5, 2), batching=batching, timeout=30.0, seed=block)
            outcome = await bench.run(plan)
            rates[batching].append(outcome.rate)
            latencies[batching] += outcome.latencies_ms
        utilisation = server.json("/dtesn/batch_metrics")["metrics"]
    ratio = median_interval([b / a for a, b in zip(rates[False], rates[True], strict=True)])
    rows = [
        (
            SIDES[side],
            figure(median_interval(rates[side]).median, "/s"),
            figure(quantile(latencies[side], 0.5), "ms"),
            figure(quantile(latencies[side], 0.99), "ms"),
        )
        for side in (False, True)
    ]
    return Part(
        "throughput",
        0,
        [Target.of("batched over unbatched throughput, mixed-length text, saturated", ratio, 1.4, 2.5)],
        [Table(f"saturated by {CLIENTS} closed-loop clients, {bench.blocks()} interleaved blocks", ("", "answers", "p50", "p99"), rows)],
        data={"direct": rates[False], "batched": rates[True], "batch_metrics": utilisation},
    )


async def both_capacities(bench: Bench) -> Part:
    """Capacity of each side, and p99 over the rate on the way there."""
    found: dict[str, Capacity] = {}
    async with sidecar() as server:
        await settle(bench, server)
        for batching in (False, True):
            found[SIDES[batching]] = await capacity(bench, server, batching=batching)
    rows = [
        (
            side,
            f"{probe.rate:.0f}/s",
            f"{probe.share:.0%}",
            f"{probe.answered:.0f}/s",
            figure(probe.p50_ms, "ms"),
            figure(probe.p99_ms, "ms"),
            "yes" if probe.held else "no",
        )
        for side, best in found.items()
        for probe in sorted(best.probes, key=lambda probe: probe.share)
    ]
    rows += [(f"[bold]{side}: capacity", f"[bold]{best.rate:.0f}/s", f"{best.share:.0%}", "", "", "", "") for side, best in found.items()]
    lines = {side: sorted((probe.share * best.saturated, probe.p99_ms) for probe in best.probes) for side, best in found.items()}
    return Part(
        "capacity",
        0,
        tables=[
            Table(
                f"open loop: capacity = highest rate with p99 < {P99_BOUND_MS:.0f} ms and no refusals",
                ("", "offered", "of saturated", "answered", "p50", "p99", "held"),
                rows,
            )
        ],
        curves=[Curves("capacity", "Latency over offered load", "offered requests/s", "p99, ms", lines, bound=P99_BOUND_MS, log_y=True)],
        data={side: {"capacity": best.rate, **asdict(best)} for side, best in found.items()},
    )


async def known_shares(bench: Bench, server: Sidecar) -> dict[bool, float]:
    """Both capacities as shares of the saturated throughput: as the part `capacity` left them, or measured now."""
    known = load_part("http", "capacity")
    if known is not None and known["quick"] == bench.quick:
        return {batching: known["data"][SIDES[batching]]["share"] for batching in (False, True)}
    return {batching: (await capacity(bench, server, batching=batching)).share for batching in (False, True)}


async def added_latency(bench: Bench) -> Part:
    """p99 of batched requests at 70 % of their capacity, less that of direct ones at 70 % of theirs."""
    p99: dict[bool, list[float]] = {False: [], True: []}
    p50: dict[bool, list[float]] = {False: [], True: []}
    rates: dict[bool, list[float]] = {False: [], True: []}
    async with sidecar() as server:
        await settle(bench, server)
        shares = await known_shares(bench, server)
        for block, batching in abba(bench.blocks()):
            bench.at(f"block {block + 1}, {SIDES[batching]}")
            rate = max(1.0, 0.7 * shares[batching] * await saturated(bench, server, batching=batching, seconds=3.0))
            plan = Plan(port=server.port, rate=rate, seconds=bench.span(7, 2), batching=batching, timeout=30.0, seed=block)
            outcome = await bench.run(plan)
            rates[batching].append(rate)
            p99[batching].append(outcome.p99_ms)
            p50[batching].append(outcome.p50_ms)
    added = median_interval([b - a for a, b in zip(p99[False], p99[True], strict=True)])
    rows = [
        (
            SIDES[side],
            f"{median_interval(rates[side]).median:.0f}/s",
            figure(median_interval(p50[side]).median, "ms"),
            figure(median_interval(p99[side]).median, "ms"),
        )
        for side in (False, True)
    ]
    return Part(
        "latency",
        0,
        [Target.of("added p99: batched at 70 % of its capacity, direct at 70 % of direct's", added, 100, 30, better="lower", unit="ms")],
        [Table("open loop at 70 % of the own capacity", ("", "rate", "p50", "p99"), rows)],
        data={
            "capacity_share": {SIDES[side]: shares[side] for side in shares},
            "rate": {SIDES[side]: rates[side] for side in rates},
            "p99": {SIDES[side]: p99[side] for side in p99},
        },
    )


async def lone_client(bench: Bench) -> Part:
    """One closed-loop client: batching must not hold it back."""
    runs: dict[bool, list[Outcome]] = {False: [], True: []}
    async with sidecar() as server:
        await settle(bench, server)
        for block, batching in abba(int(bench.span(LONE_BLOCKS, 2))):
            bench.at(f"block {block + 1}, {SIDES[batching]}")
            plan = Plan(port=server.port, clients=1, seconds=bench.span(4, 1), warm_up=0.5, batching=batching, timeout=30.0, seed=block)
            runs[batching].append(await bench.run(plan))
    ratio = median_interval([b.mean_ms / a.mean_ms for a, b in zip(runs[False], runs[True], strict=True)])
    rows = [
        (
            SIDES[side],
            *(figure(median_interval([getattr(run, of) for run in runs[side]]).median, "ms") for of in ("mean_ms", "p50_ms", "p99_ms")),
        )
        for side in (False, True)
    ]
    return Part(
        "lone",
        0,
        [Target.of("a lone closed-loop client, batched over direct latency", ratio, 1.05, 1.0, better="lower")],
        [Table("one client, one request at a time", ("", "mean", "p50", "p99"), rows)],
        data={SIDES[side]: [run.mean_ms for run in runs[side]] for side in runs},
    )


async def stretch(bench: Bench, server: Sidecar, plan: Plan, *, tries: int = 4) -> tuple[Outcome, float, float]:
    """A stretch of load with the items and places of the batches closed in its measured time; again where it was spoilt."""
    found: list[tuple[Attempt, float, float]] = []
    while not found or (found[-1][0].spoilt and len(found) < tries):
        running = asyncio.create_task(bench.attempt(plan))
        await asyncio.sleep(plan.warm_up)
        before = await asyncio.to_thread(server.counters)
        attempt = await running
        after = await asyncio.to_thread(server.counters)
        items, places = (after[name] - before[name] for name in ("dtesn_batch_items_total", "dtesn_batch_places_total"))
        found.append((attempt, items, places))
    attempt, items, places = min(found, key=lambda each: each[0].order())
    return bench.keep(attempt), items, places


async def utilisation(bench: Bench, share: float) -> Part:
    """Batch utilisation at a share of the saturated throughput, with p99 against `just_in_time`, switched live."""
    used: list[float] = []
    speeds: list[float] = []
    p99: dict[bool, list[float]] = {False: [], True: []}
    async with sidecar() as server:
        await settle(bench, server)
        for block, ours in abba(int(bench.span(UTILISATION_BLOCKS, 2))):
            if len(speeds) == block:
                bench.at(f"block {block + 1}, saturated")
                await server.reconfigure(strategy="load_aware")
                speeds.append(await saturated(bench, server, batching=True, seconds=3.0))
            strategy = "load_aware" if ours else "just_in_time"
            bench.at(f"block {block + 1}, {strategy}")
            await server.reconfigure(strategy=strategy)
            plan = Plan(port=server.port, rate=share * speeds[block], seconds=bench.span(6, 2), timeout=30.0, seed=block)
            outcome, items, places = await stretch(bench, server, plan)
            p99[ours].append(outcome.p99_ms)
            if ours:
                used.append(items / places)
    ratio = median_interval([a / b for a, b in zip(p99[True], p99[False], strict=True)])
    full = median_interval(used)
    ours_ms, theirs_ms = (median_interval(p99[side]).median for side in (True, False))
    row = (f"{share * median_interval(speeds).median:.0f}/s", figure(full.median, "%"), figure(ours_ms, "ms"), figure(theirs_ms, "ms"))
    return Part(
        f"utilisation_{100 * share:.0f}",
        0,
        [
            Target.of(f"batch utilisation at {share:.0%} of saturated throughput", full, 0.85, 0.95, unit="%"),
            Target.of(f"p99 at {share:.0%}, load_aware over just_in_time", ratio, 1.15, 1.0, better="lower"),
        ],
        [
            Table(
                f"batch utilisation = items / places, at {share:.0%}", ("rate", "utilisation", "p99 load_aware", "p99 just_in_time"), [row]
            )
        ],
        data={"saturated": speeds, "utilisation": used, "load_aware_p99_ms": p99[True], "just_in_time_p99_ms": p99[False]},
    )


PARTS: dict[str, tuple[Measure, str]] = {
    "throughput": (throughput, "about 2.5 minutes"),
    "capacity": (both_capacities, "about 4 minutes"),
    "latency": (added_latency, "about 4.5 minutes (and 4 more where `capacity` was not measured before)"),
    "lone": (lone_client, "about 3 minutes"),
    "utilisation_50": (partial(utilisation, share=0.5), "about 6 minutes"),
    "utilisation_70": (partial(utilisation, share=0.7), "about 6 minutes"),
    "improvement": (improvement, "about 5 minutes"),
}

if __name__ == "__main__":
    raise SystemExit(main("http", arguments("http", __doc__, PARTS), PARTS))
