"""Faults under full load: a drain, clients that go away, a poisoned request, no memory, a worker killed or hung.

Every answer is compared with the one its text has alone. What must be 0: lost (no answer), misrouted (another text's
answer), collateral (an innocent request that failed).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.capacity import CLIENTS
from bench.drive import Sidecar, sidecar
from bench.expected import features_alone, write_summaries
from bench.faulty import FAULT, POISON
from bench.http import settle
from bench.plans import Outcome, Plan
from bench.results import Part, Table, Target
from bench.section import Bench, arguments, main
from bench.texts import mixed
from dtesn_api.spec import ModelConfiguration

TEXTS = 256
FAULTY = (sys.executable, "-m", "bench.faulty")
Act = Callable[[Sidecar], Awaitable[None]]


async def under_load(bench: Bench, server: Sidecar, act: Act | None, *, seconds: float, **plan: object) -> Outcome:
    """Full closed-loop load with every answer checked; `act` happens meanwhile."""
    with tempfile.TemporaryDirectory(prefix="dtesn-bench-") as folder:
        expected = Path(folder) / "expected.npz"
        await asyncio.to_thread(answers_alone, expected)
        settings: dict[str, object] = {"clients": CLIENTS, "timeout": 60.0, "warm_up": 0.0, **plan}
        whole = Plan(port=server.port, seconds=seconds, text_count=TEXTS, expected=str(expected), patience=60.0, **settings)  # type: ignore[arg-type] # a plan is any of its fields
        running = asyncio.create_task(bench.run(whole, tries=1))
        if act is not None:
            await asyncio.sleep(min(2.0, seconds / 3))
            await act(server)
        return await running


@cache
def features_once() -> NDArray[np.float32]:
    """The features of the texts, each computed alone by the library."""
    return features_alone(mixed(TEXTS), ModelConfiguration())


def answers_alone(file: Path) -> None:
    """What the server should answer."""
    write_summaries(file, features_once(), mixed(TEXTS))


def report(name: str, outcome: Outcome, notes: list[tuple[str, str]], further: list[Target], *, collateral: int | None = None) -> Part:
    """The three counts that must be 0, and what shows that the fault did happen."""
    failed = outcome.failed if collateral is None else collateral
    rows = [
        ("answers compared with those computed alone", f"{outcome.checked:,}"),
        *((f"status {status}", f"{count:,}") for status, count in sorted(outcome.statuses.items())),
        *notes,
    ]
    zero = (("lost", outcome.hung + outcome.broken), ("misrouted", outcome.wrong), ("collateral failures", failed))
    targets = [Target.exactly(f"{name}: {what}", count, 0, better="lower", unit="") for what, count in zero]
    return Part(
        name.replace(" ", "_"),
        0,
        [*targets, *further],
        [Table(name, ("", ""), rows)],
        data={"statuses": outcome.statuses, "checked": outcome.checked},
    )


def happened(what: str, count: float, least: float = 1) -> Target:
    """A fault that did not happen shows nothing."""
    return Target.exactly(what, count, least, unit="")


async def sigterm(bench: Bench) -> Part:
    """SIGTERM under full load: what is accepted is answered, then the process exits with 0."""
    ended: list[float] = []

    async def act(server: Sidecar) -> None:
        server.terminate()
        began = time.monotonic()
        code = await server.exited(90)
        ended.extend([-1 if code is None else code, time.monotonic() - began])

    async with sidecar({"sidecar": {"drainDelaySeconds": 2}}) as server:
        await settle(bench, server)
        outcome = await under_load(bench, server, act, seconds=bench.span(10, 8))
    code, seconds = ended
    others = sum(count for status, count in outcome.statuses.items() if status not in ("200", "503", "refused", "broken"))
    return report(
        "sigterm",
        outcome,
        [("exit code", f"{code:.0f}"), ("seconds from the signal to the exit (2 of them the drain delay)", f"{seconds:.1f}")],
        [
            Target.exactly("sigterm: exit code", abs(code), 0, better="lower", unit=""),
            happened("sigterm: refused after the exit", outcome.statuses.get("refused", 0)),
        ],
        collateral=others,
    )


async def disconnects(bench: Bench) -> Part:
    """Three clients in ten go away before their answer."""
    async with sidecar() as server:
        await settle(bench, server)
        outcome = await under_load(bench, server, None, seconds=bench.span(12, 4), aborting=0.3)
        left = await idle(server)
        cancelled = server.counters().get("dtesn_cancellations_total", 0)
    notes = [("cancelled by the server", f"{cancelled:,.0f}"), ("still active afterwards", str(left))]
    return report(
        "disconnects",
        outcome,
        notes,
        [
            happened("disconnects: clients that went away", outcome.statuses.get("aborted", 0)),
            happened("disconnects: cancelled by the server", cancelled),
            Target.exactly("disconnects: active afterwards", left, 0, better="lower", unit=""),
        ],
    )


async def idle(server: Sidecar) -> int:
    """Requests still active after at most five seconds."""
    deadline = time.monotonic() + 5
    while True:
        active = int((await asyncio.to_thread(server.json, "/dtesn/batch_metrics"))["server_load"]["active_requests"])
        if active == 0 or time.monotonic() > deadline:
            return active
        await asyncio.sleep(0.1)


async def poison(bench: Bench) -> Part:
    """A request that makes its whole batch fail, one at a time among innocent ones."""
    seconds = bench.span(12, 4)
    statuses: Counter[int] = Counter()

    async def act(server: Sidecar) -> None:
        until = time.monotonic() + seconds - 3
        while time.monotonic() < until:
            body = {"input_data": f"{POISON} {sum(statuses.values())}", "timeout": 60}
            statuses[await asyncio.to_thread(server.status_of_post, "/dtesn/process_with_batching", body)] += 1

    async with sidecar(environ={FAULT: "poison"}, command=FAULTY) as server:
        await settle(bench, server)
        outcome = await under_load(bench, server, act, seconds=seconds)
        bisections = server.counters().get("dtesn_bisection_runs_total", 0)
    told = ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items()))
    others = sum(count for status, count in statuses.items() if status != 500)
    return report(
        "poison",
        outcome,
        [("poisoned requests answered", told), ("bisection runs", f"{bisections:,.0f}")],
        [
            happened("poison: poisoned requests answered with 500", statuses[500]),
            Target.exactly("poison: poisoned requests answered otherwise", others, 0, better="lower", unit=""),
        ],
    )


async def memory_error(bench: Bench) -> Part:
    """Every fourth batch does not fit into memory."""
    async with sidecar(environ={FAULT: "memory"}, command=FAULTY) as server:
        await settle(bench, server)
        outcome = await under_load(bench, server, None, seconds=bench.span(12, 4))
    return report(
        "memory error",
        outcome,
        [("every fourth run of several items raised MemoryError", "")],
        [happened("memory error: answers", outcome.checked, 100)],
    )


def busiest_worker(server: Sidecar) -> psutil.Process:
    """A worker that computes (helpers run the same program and are idle)."""
    return max(server.workers(), key=lambda process: sum(process.cpu_times()[:2]))


async def killed(bench: Bench) -> Part:
    """A worker is killed three times, as the kernel does when memory is short."""
    kills = 1 if bench.quick else 3

    async def act(server: Sidecar) -> None:
        for _ in range(kills):
            busiest_worker(server).kill()
            await asyncio.sleep(3)

    async with sidecar() as server:
        await settle(bench, server)
        outcome = await under_load(bench, server, act, seconds=bench.span(14, 7))
        restarts = server.counters().get("dtesn_worker_restarts_total", 0)
    return report(
        "worker killed", outcome, [("workers replaced", f"{restarts:.0f}")], [happened("worker killed: workers replaced", restarts, kills)]
    )


async def hung(bench: Bench) -> Part:
    """A worker stops in the middle of a batch."""

    async def act(server: Sidecar) -> None:
        busiest_worker(server).send_signal(signal.SIGSTOP)

    async with sidecar() as server:
        await settle(bench, server)
        outcome = await under_load(bench, server, act, seconds=bench.span(20, 16))
        restarts = server.counters().get("dtesn_worker_restarts_total", 0)
    return report("worker hung", outcome, [("workers replaced", f"{restarts:.0f}")], [happened("worker hung: workers replaced", restarts)])


PARTS = {
    "sigterm": (sigterm, "30 seconds"),
    "disconnects": (disconnects, "30 seconds"),
    "poison": (poison, "30 seconds"),
    "memory_error": (memory_error, "30 seconds"),
    "worker_killed": (killed, "30 seconds"),
    "worker_hung": (hung, "40 seconds"),
}

if __name__ == "__main__":
    raise SystemExit(main("faults", arguments("faults", __doc__, PARTS), PARTS))
