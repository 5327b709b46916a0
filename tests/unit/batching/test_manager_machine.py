"""Any interleaving of submit, cancel, expiry, failure, load change, reconfiguration and stop: one outcome each, its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import hypothesis.strategies as st
import looptime
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import Entry, RequestDone, RunReport, SilentObserver, Work, WorkerHung
from dtesn_sidecar.errors import DTESNError, OutOfMemory, WorkerLost

MODES = ("ok", "ok", "ok", "error", "poison", "item_errors", "oom", "died", "hang", "partial", "silent")


def _number(payload: object) -> int:
    assert isinstance(payload, int)
    return payload


def _work(payload: object) -> Work:
    number = _number(payload)
    return Work(nodes=1 + number % 5, shape=number % 2, model=number % 2)


class Misbehaving:
    """A runner that fails in every way that the Protocol allows, as told. A result is ("result of", payload)."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.mode = "ok"
        self.running = 0
        self.most_running = 0
        self.cap: int | None = None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def run(self, entries: Sequence[Entry], finished: Callable[[int, object], None], *, hung_after: float) -> RunReport:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._run(entries, finished, hung_after)
        finally:
            self.running -= 1

    async def _run(self, entries: Sequence[Entry], finished: Callable[[int, object], None], hung_after: float) -> RunReport:
        mode = self.mode
        await asyncio.sleep(0.005)
        half = len(entries) // 2
        if mode in ("partial", "died", "hang"):
            for entry in entries[:half]:
                finished(entry.id, ("result of", entry.payload))
        if mode == "hang":
            await asyncio.sleep(hung_after)
            raise WorkerHung("hung")
        await asyncio.sleep(0.005 + 0.001 * len(entries))
        if mode == "error" or (mode == "poison" and any(_number(entry.payload) % 7 == 0 for entry in entries)):
            raise ValueError("whole batch")
        if mode == "oom" and len(entries) > 1:
            raise OutOfMemory("too much")
        if mode == "died":
            raise WorkerLost("died")
        if mode == "partial":
            raise RuntimeError("after half of it")
        if mode != "silent":
            for entry in entries:
                bad = mode == "item_errors" and _number(entry.payload) % 3 == 0
                finished(entry.id, ValueError("this one") if bad else ("result of", entry.payload))
                finished(entry.id, "twice")  # a runner that repeats itself must not confuse anyone
        return RunReport(0.01, sum(e.work.nodes for e in entries), 1, complete=mode == "ok")

    def drop(self, ids: Collection[int]) -> bool:
        return self.mode != "silent"

    def byte_cap(self) -> int | None:
        return self.cap

    def bytes_of(self, works: Sequence[Work]) -> int:
        return sum(100 * work.nodes for work in works)


class Counting(SilentObserver):
    """Counts outcomes as observers see them."""

    def __init__(self) -> None:
        self.outcomes = 0

    def request_done(self, event: RequestDone) -> None:
        self.outcomes += 1


class ManagerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=100.0)
        self.runner = Misbehaving(workers=2)
        self.observer = Counting()
        self.load: float | None = None
        self.manager = DynamicBatchManager(
            self.config(8, "load_aware"),
            lambda: self.load,
            self.runner,
            cost=_work,
            observer=self.observer,
        )
        self.tasks: dict[int, asyncio.Task[object]] = {}
        self.cancelled: set[int] = set()
        self.accepted = 0
        self.next = 0
        self.loop.run_until_complete(self.manager.start())

    @staticmethod
    def config(size: int, strategy: str, aging: float = 500.0) -> BatchConfiguration:
        return BatchConfiguration(
            max_batch_size=size,
            target_batch_size=min(4, size),
            max_queue_size=20,
            max_queue_nodes=60,
            failure_threshold=2,
            circuit_breaker_timeout=0.5,
            strategy=strategy,  # type: ignore[arg-type]
            aging_ms=aging,
            max_batch_nodes=16,
        )

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(
        count=st.integers(1, 12),
        priority=st.integers(0, 2),
        timeout=st.sampled_from([None, 0.01, 0.05, 0.5, 20.0]),
        direct=st.booleans(),
    )
    def submit(self, count: int, priority: int, timeout: float | None, direct: bool) -> None:
        for _ in range(count):
            payload, self.next = self.next, self.next + 1
            self.tasks[payload] = self.loop.create_task(self.manager.submit(payload, priority, timeout, direct=direct and payload % 2 == 0))

    @rule(index=st.integers(0, 1000))
    @precondition(lambda self: self.tasks)
    def cancel(self, index: int) -> None:
        payload = sorted(self.tasks)[index % len(self.tasks)]
        if not self.tasks[payload].done():
            self.cancelled.add(payload)
            self.tasks[payload].cancel()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.004, 0.012, 0.06, 0.6, 12.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.wait(seconds)

    @rule(mode=st.sampled_from(MODES))
    def change_behaviour(self, mode: str) -> None:
        self.runner.mode = mode

    @rule(load=st.sampled_from([None, 0.0, 0.5, 1.0]), cap=st.sampled_from([None, 100, 1000]))
    def change_load(self, load: float | None, cap: int | None) -> None:
        self.load, self.runner.cap = load, cap

    @rule(size=st.integers(1, 16), strategy=st.sampled_from(["fixed", "load_aware", "just_in_time"]), aging=st.sampled_from([0.0, 500.0]))
    def reconfigure(self, size: int, strategy: str, aging: float) -> None:
        self.manager.reconfigure(self.config(size, strategy, aging))

    @rule(drain=st.booleans())
    def stop_and_start(self, drain: bool) -> None:
        self.loop.run_until_complete(self.manager.stop(drain=drain))
        self.settled()
        self.loop.run_until_complete(self.manager.start())

    @invariant()
    def answers_are_their_own(self) -> None:
        for payload, task in self.tasks.items():
            if task.done() and not task.cancelled() and task.exception() is None:
                assert task.result() == ("result of", payload)
            if task.done() and task.cancelled():
                assert payload in self.cancelled

    @invariant()
    def workers_are_not_oversubscribed(self) -> None:
        assert self.runner.most_running <= self.runner.workers

    @invariant()
    def the_loop_is_alive_and_its_counts_agree(self) -> None:
        assert self.manager.alive
        shown = self.manager.snapshot()
        assert shown.policy_failures == 0, shown.last_policy_failure
        assert shown.pending + shown.computing >= 0
        assert shown.pending == sum(shown.pending_by_priority)
        assert shown.pending <= 20

    def settled(self) -> None:
        self.wait(0.001)
        for payload, task in self.tasks.items():
            assert task.done(), payload
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, DTESNError | ValueError | RuntimeError)
        shown = self.manager.snapshot()
        assert (shown.pending, shown.computing, shown.active) == (0, 0, 0)
        self.tasks.clear()

    def teardown(self) -> None:
        self.runner.mode = "ok"
        try:
            self.loop.run_until_complete(self.manager.stop())
            self.settled()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()


ManagerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestEveryInterleaving = ManagerMachine.TestCase
