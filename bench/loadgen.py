"""The load generator, a process of its own: reads plans (`bench.plans`) from standard input, writes outcomes to standard output.

A late generator hides a slow server, so its slip (actual minus intended send time) and its CPU are part of every outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import msgspec
import numpy as np
import uvloop
from numpy.typing import NDArray

from bench.client import BROKEN, PENDING, REFUSED, Connection, Shot, connect, prepare
from bench.plans import Outcome, Plan
from bench.stats import quantile
from bench.texts import mixed, sentences

PATH = "/dtesn/process_with_batching"
clock = time.monotonic  # the loop's own counts whole milliseconds
SPARE = 16  # open connections kept ready, so that no arrival waits for a handshake
GROUPED, PAUSE = 200.0, 0.001
"""From so many arrivals per second on, this process sleeps so many seconds between two looks at what is due and what came.

Each time it wakes it takes a core from the server. The loop's own timers are no finer, and what that adds to slip and latency is measured.
"""
TURNED_AWAY = (REFUSED, 429, 503, 504)


def requests_of(plan: Plan) -> list[bytes]:
    """The request of each text as bytes."""
    texts = (mixed if plan.texts == "mixed" else sentences)(plan.text_count, plan.text_seed)
    options: dict[str, object] = {"enable_batching": plan.batching, "output": plan.output}
    if plan.timeout is not None:
        options["timeout"] = plan.timeout
    return [prepare(PATH, {"input_data": text, "input_format": "text", **options}) for text in texts]


class Generator:
    """One stretch of load."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = requests_of(plan)
        self.rng = np.random.default_rng(plan.seed)
        self.free: list[Connection] = []
        self.everything: list[Shot] = []
        self.under_way = 0
        self.aborted: set[int] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self.sending = True

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self) -> Connection | None:
        return await connect(self.plan.port, self.answered, keep_bodies=self.plan.expected is not None)

    async def _add_connection(self) -> None:
        connection = await self._connect()
        if connection is not None:
            self.free.append(connection)

    # One request.

    def fire(self, shot: Shot) -> None:
        """Send on a free connection, or on a new one."""
        self.everything.append(shot)
        self.under_way += 1
        free = self.free
        while free:
            connection = free.pop()
            if connection.reusable:
                self.send(shot, connection)
                if len(free) < SPARE and self.plan.rate is not None:
                    self._spawn(self._add_connection())
                return
        self._spawn(self._fire_anew(shot))

    async def _fire_anew(self, shot: Shot) -> None:
        connection = await self._connect()
        if connection is None:
            shot.sent, shot.status = clock(), REFUSED
            self.finished(shot)
        else:
            self.send(shot, connection)

    def send(self, shot: Shot, connection: Connection) -> None:
        """Write it; with `aborting`, some clients go away soon after."""
        shot.sent = clock()
        connection.send(self.requests[shot.index], shot)
        if self.plan.aborting and self.rng.random() < self.plan.aborting:
            self.loop.call_later(float(self.rng.uniform(0.0, 0.05)), self.abort, shot, connection)

    def abort(self, shot: Shot, connection: Connection) -> None:
        """The client goes away, unless it has its answer."""
        if shot.status == PENDING:
            connection.abort()
            self.aborted.add(id(shot))
            shot.status = BROKEN
            self.finished(shot)

    def answered(self, connection: Connection, shot: Shot) -> None:
        """The answer came, or the connection ended."""
        if connection.reusable:
            self.free.append(connection)
        self.finished(shot)

    def finished(self, shot: Shot) -> None:
        """The answer came, or never will."""
        shot.returned = clock()
        self.under_way -= 1
        if self.sending:
            if self.plan.rate is None:
                if shot.status in TURNED_AWAY:
                    self.loop.call_later(0.01, self._next)  # a client that is turned away does not hammer
                else:
                    self._next()
        elif self.under_way == 0:
            self.over.set()

    def _next(self) -> None:
        if self.sending:
            self.fire(Shot(int(self.rng.integers(len(self.requests))), clock()))
        elif self.under_way == 0:
            self.over.set()

    # The whole.

    async def run(self) -> Outcome:
        """Carry the plan out."""
        plan = self.plan
        ready = plan.clients if plan.rate is None else int(min(1500, 2 * SPARE + 0.25 * plan.rate))
        await asyncio.gather(*(self._add_connection() for _ in range(ready)))
        gc.collect()
        gc.freeze()
        gc.disable()
        start, cpu = clock(), time.process_time()
        end = start + plan.warm_up + plan.seconds
        if plan.rate is None:
            for _ in range(plan.clients):
                self._next()
            await asyncio.sleep(end - clock())
        else:
            await self._arrivals(start, end, plan.rate)
        self.sending = False
        used = (time.process_time() - cpu) / (clock() - start)
        if self.under_way:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), plan.patience)
        for shot in self.everything:  # settled before the connections close: that must not read as an answer
            if shot.status == PENDING:
                shot.returned = -1.0
        for connection in self.free:
            connection.close()
        gc.enable()
        return self.outcome(start, used)

    async def _arrivals(self, start: float, end: float, rate: float) -> None:
        count = int((end - start) * rate * 1.5) + 100
        due = start + np.cumsum(self.rng.exponential(1 / rate, count))
        picks = self.rng.integers(len(self.requests), size=count)
        times, indexes = due[due < end].tolist(), picks.tolist()
        at = 0
        done = asyncio.Event()

        def tick() -> None:
            nonlocal at
            if rate >= GROUPED:
                time.sleep(PAUSE)
            now = clock()
            while at < len(times) and times[at] <= now:
                self.fire(Shot(indexes[at], times[at]))
                at += 1
            if at == len(times):
                done.set()
            elif rate >= GROUPED:
                self.loop.call_soon(tick)
            else:
                self.loop.call_later(times[at] - now, tick)

        tick()
        await done.wait()

    def outcome(self, start: float, cpu: float) -> Outcome:
        """Count."""
        plan = self.plan
        first = start + plan.warm_up
        hung = [shot for shot in self.everything if shot.returned < 0]
        answered = [shot for shot in self.everything if shot.returned >= 0]
        measured = [shot for shot in answered if shot.due >= first]
        statuses = Counter(self._name(shot) for shot in measured)
        good = [shot for shot in measured if shot.status == 200]
        latencies = [1000 * (shot.returned - shot.due) for shot in good]
        # A rate is of what was answered within the measured time, whenever it was sent.
        within = [shot for shot in answered if shot.status == 200 and first <= shot.returned <= first + plan.seconds]
        limit = plan.timeout if plan.timeout is not None else float("inf")
        wrong, checked, worst = self.compare(answered) if plan.expected else (0, 0, 0.0)
        return Outcome(
            sent=sum(shot.due >= first for shot in self.everything),
            statuses=dict(statuses),
            rate=len(within) / plan.seconds,
            in_time=sum(shot.returned - shot.due <= limit for shot in within) / plan.seconds,
            p50_ms=_finite(quantile(latencies, 0.5)),
            p99_ms=_finite(quantile(latencies, 0.99)),
            mean_ms=_finite(float(np.mean(latencies))) if latencies else 0.0,
            latencies_ms=[round(value, 2) for value in latencies],
            hung=len(hung),
            broken=sum(shot.status == BROKEN and id(shot) not in self.aborted for shot in answered),
            wrong=wrong,
            failed=sum(shot.status > 0 and shot.status != 200 for shot in answered),
            no_retry_after=sum(shot.status in (429, 503, 504) and not shot.retry_after for shot in answered),
            checked=checked,
            worst=worst,
            slip_p99_ms=1000 * _finite(quantile([shot.sent - shot.due for shot in self.everything if shot.sent], 0.99)),
            cpu=cpu,
            timeline=self._timeline(
                [shot.returned - start for shot in answered if shot.status == 200 and shot.returned - shot.due <= limit]
            ),
        )

    def _name(self, shot: Shot) -> str:
        if id(shot) in self.aborted:
            return "aborted"
        return {REFUSED: "refused", BROKEN: "broken"}.get(shot.status, str(shot.status))

    def _timeline(self, times: list[float]) -> list[float]:
        width = self.plan.buckets
        if not width:
            return []
        counts = Counter(int(time / width) for time in times)
        return [counts[bucket] / width for bucket in range(max(counts, default=-1) + 1)]

    def compare(self, answered: list[Shot]) -> tuple[int, int, float]:
        """How many answers differ from those computed alone, of how many, and the largest difference."""
        assert self.plan.expected is not None
        with np.load(self.plan.expected) as file:
            expected, tolerance = file["answers"], file["tolerance"]
        wrong = checked = 0
        worst = 0.0
        for shot in answered:
            if shot.status != 200:
                continue
            checked += 1
            got = values(json.loads(shot.body)["result"]["processed_output"])
            wanted = expected[shot.index]
            if got.shape != wanted.shape:
                wrong += 1
                continue
            difference = np.abs(got - wanted)
            worst = max(worst, float(difference.max()))
            wrong += bool((difference > tolerance).any())
        return wrong, checked, worst


def values(processed: dict[str, object]) -> NDArray[np.float64]:
    """An answer as one vector: its features; or the number of nodes, then norm and mean of each layer's two states."""
    if processed["output"] == "features":
        return np.asarray(processed["features"], dtype=np.float64)
    layers = processed["summary"]
    assert isinstance(layers, list)
    numbers = [layer[state][part] for layer in layers for state in ("root", "mean") for part in ("norm", "mean")]
    return np.asarray([processed["nodes"], *numbers], dtype=np.float64)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 0.0


async def serve() -> None:
    """Plans in, outcomes out."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        outcome = await Generator(msgspec.json.decode(line, type=Plan)).run()
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()
        gc.unfreeze()
        gc.collect()


def main() -> int:
    """Serve plans, ahead of other processes where that is permitted."""
    # Ahead of everything else where that is permitted: it needs a tenth of a core, at once.
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -10)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
