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
from functools import partial
from typing import Any

import msgspec
import numpy as np
import uvloop
from numpy.typing import NDArray

from bench.client import BROKEN, REFUSED, Answer, Connection, connect, prepare
from bench.plans import Outcome, Plan
from bench.stats import quantile
from bench.texts import mixed, sentences

PATH = "/dtesn/process_with_batching"
clock = time.monotonic  # the loop's own counts whole milliseconds
SPARE = 16  # open connections kept ready, so that no arrival waits for a handshake


class Shot:
    """One request: which text, when it was meant to go, when it went, when the answer came, and what it was."""

    __slots__ = ("answer", "due", "index", "returned", "sent")

    def __init__(self, index: int, due: float) -> None:
        self.index, self.due = index, due
        self.sent = self.returned = 0.0
        self.answer: Answer | None = None


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

    async def _add_connection(self) -> None:
        connection = await connect(self.plan.port)
        if connection is not None:
            self.free.append(connection)

    # One request.

    def fire(self, shot: Shot) -> None:
        """Send on a free connection, or on a new one."""
        self.everything.append(shot)
        self.under_way += 1
        while self.free:
            connection = self.free.pop()
            if connection.reusable:
                self.send(shot, connection)
                if len(self.free) < SPARE and self.plan.rate is not None:
                    self._spawn(self._add_connection())
                return
        self._spawn(self._fire_anew(shot))

    async def _fire_anew(self, shot: Shot) -> None:
        connection = await connect(self.plan.port)
        if connection is None:
            shot.sent = clock()
            self.finished(shot, None, Answer(REFUSED, b"", b""))
        else:
            self.send(shot, connection)

    def send(self, shot: Shot, connection: Connection) -> None:
        """Write it; with `aborting`, some clients go away soon after."""
        shot.sent = clock()
        connection.send(self.requests[shot.index], partial(self.finished, shot, connection))
        if self.plan.aborting and self.rng.random() < self.plan.aborting:
            self.loop.call_later(float(self.rng.uniform(0.0, 0.05)), self.abort, shot, connection)

    def abort(self, shot: Shot, connection: Connection) -> None:
        """The client goes away, unless it has its answer."""
        if shot.answer is None:
            connection.abort()
            self.aborted.add(id(shot))
            self.finished(shot, None, Answer(BROKEN, b"", b""))

    def finished(self, shot: Shot, connection: Connection | None, answer: Answer) -> None:
        """The answer came, or never will."""
        shot.returned = clock()
        shot.answer = answer
        self.under_way -= 1
        if answer.status == 200:
            answer.head = b""
            if not self.plan.expected:
                answer.body = b""
        if connection is not None and connection.reusable:
            self.free.append(connection)
        if self.sending and self.plan.rate is None:
            if answer.status in (REFUSED, 429, 503, 504):
                self.loop.call_later(0.01, self._next)  # a client that is turned away does not hammer
            else:
                self._next()
        elif self.under_way == 0 and not self.sending:
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
            if shot.answer is None:
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
            now = clock()
            while at < len(times) and times[at] <= now:
                self.fire(Shot(indexes[at], times[at]))
                at += 1
            if at < len(times):
                self.loop.call_later(times[at] - now, tick)
            else:
                done.set()

        tick()
        await done.wait()

    def outcome(self, start: float, cpu: float) -> Outcome:
        """Count."""
        plan = self.plan
        first = start + plan.warm_up
        hung = [shot for shot in self.everything if shot.returned < 0]
        answered = [(shot, shot.answer) for shot in self.everything if shot.returned >= 0 and shot.answer is not None]
        measured = [(shot, answer) for shot, answer in answered if shot.due >= first]
        statuses = Counter(self._name(shot, answer) for shot, answer in measured)
        good = [shot for shot, answer in measured if answer.status == 200]
        latencies = [1000 * (shot.returned - shot.due) for shot in good]
        # A rate is of what was answered within the measured time, whenever it was sent.
        within = [shot for shot, answer in answered if answer.status == 200 and first <= shot.returned <= first + plan.seconds]
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
            broken=sum(answer.status == BROKEN and id(shot) not in self.aborted for shot, answer in answered),
            wrong=wrong,
            failed=sum(answer.status > 0 and answer.status != 200 for _, answer in answered),
            no_retry_after=sum(answer.status in (429, 503, 504) and b"\r\nretry-after:" not in answer.head for _, answer in answered),
            checked=checked,
            worst=worst,
            slip_p99_ms=1000 * _finite(quantile([shot.sent - shot.due for shot in self.everything if shot.sent], 0.99)),
            cpu=cpu,
            timeline=self._timeline(
                [shot.returned - start for shot, answer in answered if answer.status == 200 and shot.returned - shot.due <= limit]
            ),
        )

    def _name(self, shot: Shot, answer: Answer) -> str:
        if id(shot) in self.aborted:
            return "aborted"
        return {REFUSED: "refused", BROKEN: "broken"}.get(answer.status, str(answer.status))

    def _timeline(self, times: list[float]) -> list[float]:
        width = self.plan.buckets
        if not width:
            return []
        counts = Counter(int(time / width) for time in times)
        return [counts[bucket] / width for bucket in range(max(counts, default=-1) + 1)]

    def compare(self, answered: list[tuple[Shot, Answer]]) -> tuple[int, int, float]:
        """How many answers differ from those computed alone, of how many, and the largest difference."""
        assert self.plan.expected is not None
        with np.load(self.plan.expected) as file:
            expected, tolerance = file["answers"], file["tolerance"]
        wrong = checked = 0
        worst = 0.0
        for shot, answer in answered:
            if answer.status != 200:
                continue
            checked += 1
            got = values(json.loads(answer.body)["result"]["processed_output"])
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
