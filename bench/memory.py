"""Resident memory of all of the sidecar's processes over ten minutes at twice the load that it can serve."""

from __future__ import annotations

import asyncio
import time

from bench.capacity import saturated
from bench.drive import Sidecar, sidecar
from bench.http import settle
from bench.plans import Plan
from bench.results import Curves, Part, Table, Target
from bench.section import Bench, arguments, main
from bench.stats import median_interval, slope_per_hour

MIB = 1 << 20
STRETCH = 30.0
EVERY = 2.0


async def watch(server: Sidecar, points: list[tuple[float, float]]) -> None:
    """(seconds since the start, MiB) every two seconds, until cancelled."""
    began = time.monotonic()
    while True:
        points.append((time.monotonic() - began, await asyncio.to_thread(server.resident_bytes) / MIB))
        await asyncio.sleep(EVERY)


async def soak(bench: Bench) -> Part:
    """Flat after the warm-up, which is the first fifth: median of the last fifth against that of the second."""
    total = 60 * bench.options.minutes if not bench.quick else 20.0
    points: list[tuple[float, float]] = []
    answered = hung = 0
    async with sidecar() as server:
        await settle(bench, server)
        best = await saturated(bench, server, batching=True)
        watching = asyncio.create_task(watch(server, points))
        began = time.monotonic()
        stretch = 0
        while (left := total - (time.monotonic() - began)) > 1:
            bench.at(f"{left / 60:.1f} minutes to go, {points[-1][1] if points else 0:.0f} MiB")
            plan = Plan(port=server.port, rate=2 * best, seconds=min(STRETCH, left), warm_up=0.0, timeout=1.0, seed=stretch)
            outcome = await bench.run(plan, tries=1)
            answered, hung, stretch = answered + outcome.statuses.get("200", 0), hung + outcome.hung, stretch + 1
        watching.cancel()
        workers = len(server.processes()) - 1
    second = [mib for at, mib in points if total / 5 <= at < 2 * total / 5]
    last = [mib for at, mib in points if at >= 4 * total / 5]
    first_median = median_interval(second)
    growth = median_interval([mib / first_median.median - 1 for mib in last])
    late = [point for point in points if point[0] >= total / 5]
    rows = [
        ("processes", str(1 + workers)),
        ("answered", f"{answered:,}"),
        ("after the warm-up", f"{first_median.median:.0f} MiB"),
        ("at the end", f"{median_interval(last).median:.0f} MiB"),
        ("highest", f"{max(mib for _, mib in points):.0f} MiB"),
        ("slope after the warm-up", f"{slope_per_hour(*zip(*late, strict=True)):+.1f} MiB/h"),
    ]
    return Part(
        "memory",
        0,
        [
            Target.of(f"growth of resident memory, {total / 60:.1f} minutes at 2x load", growth, 0.05, better="lower", unit="%"),
            Target.exactly("hung meanwhile", hung, 0, better="lower", unit=""),
        ],
        [Table("resident memory of all processes (shared pages once)", ("", ""), rows)],
        [
            Curves(
                "memory", "Resident memory at twice the load", "minutes", "MiB", {"all processes": [(at / 60, mib) for at, mib in points]}
            )
        ],
        data={"offered": 2 * best, "points": points},
    )


PARTS = {"memory": (soak, "10.5 minutes (--minutes)")}

if __name__ == "__main__":
    parser = arguments("memory", __doc__, PARTS)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    raise SystemExit(main("memory", parser, PARTS))
