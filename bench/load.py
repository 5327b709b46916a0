"""What polling load costs a request: p99 with a Prometheus that hangs against p99 with none, one server switched live.

A hung server is the worst: every poll lasts until its time-out, so that a request which waited for one would show it at once. It is asked
every second, five times as often as by default. Text of mixed lengths, the default model, open loop at half of the saturated throughput.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.capacity import saturated
from bench.drive import Sidecar, sidecar
from bench.http import settle
from bench.plans import Outcome, Plan
from bench.results import Part, Table, Target, figure
from bench.section import Bench, arguments, main
from bench.stats import abba, median_interval

SIDES = ("no Prometheus", "a hung Prometheus")
SECONDS = 1.0  # between polls, and until one is given up: there is always one under way
SHARE = 0.5  # of the saturated throughput
BLOCKS = 20  # p99 of a few seconds varies by tens of percent, and the interval must end below 1.1


@asynccontextmanager
async def hung_server() -> AsyncIterator[tuple[str, list[int]]]:
    """A server that takes every request and answers none; its URL, and the number of requests so far in a list of one."""
    asked = [0]

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                asked[0] += line.startswith(b"GET ")
        finally:
            writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def switch(server: Sidecar, url: str | None) -> None:
    """Poll this Prometheus from now on; None: none."""
    source: dict[str, Any] = {"name": "hung", "url": url, "query": "up", "intervalSeconds": SECONDS, "timeoutSeconds": SECONDS}
    server.spec["load"] = {} if url is None else {"prometheus": [source]}
    await server.reconfigure()


async def hung(bench: Bench) -> Part:
    """Both sides in turn."""
    runs: dict[bool, list[Outcome]] = {False: [], True: []}
    polls = 0
    async with sidecar() as server, hung_server() as (url, asked):
        await settle(bench, server)
        bench.at("saturated")
        rate = SHARE * await saturated(bench, server, batching=True, seconds=bench.span(5, 2))
        for block, hangs in abba(int(bench.span(BLOCKS, 2))):
            bench.at(f"block {block + 1}, {SIDES[hangs]}")
            await switch(server, url if hangs else None)
            before = asked[0]
            runs[hangs].append(await bench.run(Plan(port=server.port, rate=rate, seconds=bench.span(6, 2), timeout=30.0, seed=block)))
            polls += asked[0] - before
        reason = server.json("/dtesn/batch_metrics")["server_load"].get("hung", {}).get("reason")
    if polls == 0:
        raise RuntimeError("the hung server was never asked, so nothing was compared")
    ratio = median_interval([b.p99_ms / a.p99_ms for a, b in zip(runs[False], runs[True], strict=True)])
    rows = [
        (
            SIDES[side],
            *(figure(median_interval([getattr(run, of) for run in runs[side]]).median, "ms") for of in ("mean_ms", "p50_ms", "p99_ms")),
        )
        for side in (False, True)
    ]
    return Part(
        "hung",
        0,
        [
            Target.of("p99 with a hung Prometheus over p99 with none", ratio, 1.1, better="lower"),
            Target.exactly("lower end of that interval: no more than nothing", ratio.low, 1.0, better="lower"),
        ],
        [Table(f"open loop at {rate:.0f}/s, {polls} polls that hung", ("", "mean", "p50", "p99"), rows)],
        data={"rate": rate, "polls": polls, "reason": reason, "p99_ms": {SIDES[side]: [run.p99_ms for run in runs[side]] for side in runs}},
    )


PARTS = {"hung": (hung, "about 6 minutes")}

if __name__ == "__main__":
    raise SystemExit(main("load", arguments("load", __doc__, PARTS), PARTS))
