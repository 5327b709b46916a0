"""Open loop at twice the capacity: what is answered in time, and that everything else is told so at once."""

from __future__ import annotations

from dataclasses import asdict

from bench.capacity import capacity
from bench.drive import sidecar
from bench.http import settle
from bench.plans import Plan
from bench.results import Curves, Part, Table, Target, figure
from bench.section import Bench, arguments, main
from bench.stats import median_interval

TIMEOUT = 1.0  # seconds that each client waits
TURNED_AWAY = ("429", "503", "504")


async def overload(bench: Bench) -> Part:
    """Capacity first, then 60 seconds at twice that, in the same server."""
    seconds = bench.span(60, 6)
    async with sidecar() as server:
        await settle(bench, server)
        best, probes = await capacity(bench, server, batching=True)
        bench.at(f"{2 * best:.0f}/s for {seconds:.0f} s")
        plan = Plan(port=server.port, rate=2 * best, seconds=seconds, warm_up=5.0, timeout=TIMEOUT, buckets=1.0)
        outcome = await bench.run(plan)
    share = median_interval([value / best for value in outcome.timeline[5 : 5 + int(seconds)]])
    turned_away = sum(outcome.statuses.get(status, 0) for status in TURNED_AWAY)
    others = outcome.sent - outcome.statuses.get("200", 0) - turned_away
    rows = [
        ("capacity", f"{best:.0f}/s"),
        ("offered", f"{2 * best:.0f}/s"),
        (f"answered within {TIMEOUT:.0f} s", f"{outcome.in_time:.0f}/s"),
        ("p50, p99 of the answers", f"{figure(outcome.p50_ms, 'ms')}, {figure(outcome.p99_ms, 'ms')}"),
        *((f"status {status}", f"{count:,}") for status, count in sorted(outcome.statuses.items())),
    ]
    return Part(
        "overload",
        0,
        [
            Target.of(f"goodput at 2x capacity for {seconds:.0f} s, of capacity", share, 0.9, 0.97, unit="%"),
            Target.exactly("hung at 2x capacity", outcome.hung, 0, better="lower", unit=""),
            Target.exactly("neither answered nor 429, 503, 504 at 2x capacity", others, 0, better="lower", unit=""),
            Target.exactly("of these without Retry-After", outcome.no_retry_after, 0, better="lower", unit=""),
        ],
        [Table("overload", ("", ""), rows)],
        [
            Curves(
                "overload",
                "Answers in time at twice the capacity",
                "seconds",
                "answers/s",
                {"in time": list(enumerate(outcome.timeline))},
                bound=best,
            )
        ],
        data={"capacity": best, "statuses": outcome.statuses, "in_time": outcome.in_time, "probes": [asdict(probe) for probe in probes]},
    )


PARTS = {"overload": (overload, "about 3.5 minutes")}

if __name__ == "__main__":
    raise SystemExit(main("overload", arguments("overload", __doc__, PARTS), PARTS))
