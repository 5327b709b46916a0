"""Open loop at twice the capacity: what is answered in time, and that everything else is told so at once.

Capacity is a share of the saturated throughput (`bench.capacity`): each block is compared with that share of what was measured
just before and just after it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import asdict

from bench.capacity import capacity, saturated
from bench.drive import sidecar
from bench.http import settle
from bench.plans import Outcome, Plan
from bench.results import Curves, Part, Table, Target, figure
from bench.section import Bench, arguments, main
from bench.stats import median_interval

TIMEOUT = 1.0  # seconds that each client waits
TURNED_AWAY = ("429", "503", "504")


async def overload(bench: Bench) -> Part:
    """Capacity, then blocks of twice that between saturated ones, then 60 seconds of it in one piece."""
    seconds = bench.span(60, 6)
    blocks: list[Outcome] = []
    async with sidecar() as server:
        await settle(bench, server)
        found = await capacity(bench, server, batching=True)
        share = found.share
        saturations = [await saturated(bench, server, batching=True, seconds=4.0)]
        for block in range(bench.blocks()):
            bench.at(f"block {block + 1} at twice the capacity")
            rate = 2 * share * saturations[-1]
            plan = Plan(port=server.port, rate=rate, seconds=bench.span(6, 3), warm_up=bench.span(2, 1), timeout=TIMEOUT, seed=block)
            blocks.append(await bench.run(plan))
            bench.at(f"block {block + 1}, saturated")
            saturations.append(await saturated(bench, server, batching=True, seconds=4.0))
        rate = 2 * share * saturations[-1]
        bench.at(f"{rate:.0f}/s for {seconds:.0f} s")
        whole = await bench.run(Plan(port=server.port, rate=rate, seconds=seconds, warm_up=5.0, timeout=TIMEOUT, buckets=1.0))
    capacities = [share * (before + after) / 2 for before, after in itertools.pairwise(saturations)]
    goodput = median_interval([block.in_time / rate for block, rate in zip(blocks, capacities, strict=True)])
    everything = [*blocks, whole]
    statuses = sum((Counter(outcome.statuses) for outcome in everything), Counter[str]())
    others = sum(outcome.sent for outcome in everything) - sum(statuses[status] for status in ("200", *TURNED_AWAY))
    best = median_interval(capacities).median
    rows = [
        ("capacity", f"{best:.0f}/s, {share:.0%} of saturated"),
        ("offered", f"{2 * best:.0f}/s"),
        (f"answered within {TIMEOUT:.0f} s", f"{median_interval([block.in_time for block in blocks]).median:.0f}/s"),
        *(
            (f"{name} of the answers", figure(median_interval(values).median, "ms"))
            for name, values in (("p50", [block.p50_ms for block in blocks]), ("p99", [block.p99_ms for block in blocks]))
        ),
        (f"the {seconds:.0f} s in one piece", f"{whole.in_time:.0f}/s of {rate:.0f}/s offered"),
        *((f"status {status}", f"{count:,}") for status, count in sorted(statuses.items())),
    ]
    return Part(
        "overload",
        0,
        [
            Target.of("goodput at 2x capacity, of capacity", goodput, 0.9, 0.97, unit="%"),
            Target.exactly("hung at 2x capacity", sum(outcome.hung for outcome in everything), 0, better="lower", unit=""),
            Target.exactly("neither answered nor 429, 503, 504 at 2x capacity", others, 0, better="lower", unit=""),
            Target.exactly(
                "of these without Retry-After", sum(outcome.no_retry_after for outcome in everything), 0, better="lower", unit=""
            ),
        ],
        [Table(f"{bench.blocks()} blocks between saturated ones, then {seconds:.0f} s in one piece", ("", ""), rows)],
        [
            Curves(
                "overload",
                "Answers in time at twice the capacity",
                "seconds",
                "answers/s",
                {"in time": list(enumerate(whole.timeline))},
                bound=rate / 2,
            )
        ],
        data={
            "capacity_share": share,
            "saturated": saturations,
            "in_time": [block.in_time for block in blocks],
            "whole_in_time": whole.in_time,
            "statuses": dict(statuses),
            "probes": [asdict(probe) for probe in found.probes],
        },
    )


PARTS = {"overload": (overload, "about 5.5 minutes")}

if __name__ == "__main__":
    raise SystemExit(main("overload", arguments("overload", __doc__, PARTS), PARTS))
