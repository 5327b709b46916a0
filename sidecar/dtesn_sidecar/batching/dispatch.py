"""The one loop: batches to the workers as they become free, and what follows each. It decides nothing; `planner` does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from dtesn_sidecar.errors import BreakerOpen, ComputeFailed

from . import planner
from .answers import Answers
from .baseline import BaselineSchedule
from .batch import Batch, BatchResult
from .breaker import Circuit
from .core import Core
from .execution import Context, execute
from .item import Item, State
from .policies import Policies
from .protocols import Bisected, BreakerChanged, Work
from .strategies import Hold
from .watch import Watch, batch_done

log = logging.getLogger(__name__)

RETRY_LOOP = 0.1
SHORTEST_HOLD = 0.0005
TIMER_RESOLUTION = 0.001
HUNG_IN_A_ROW = 2
EVERY_ARRIVAL = 0
NO_ARRIVAL = 1 << 62


class Dispatcher:
    """Runs batches on the workers until it is ended. Create it on the running event loop."""

    def __init__(self, core: Core, answers: Answers, policies: Policies, watch: Watch, clock: Callable[[], float]) -> None:
        self._core, self._answers, self._policies, self._watch, self._clock = core, answers, policies, watch, clock
        self._loop = asyncio.get_running_loop()
        self._context = Context(
            core.runner, clock, answers.settle, answers.hopeless, core.ledger.cost, self._out_of_memory, self._lost, self._ran
        )
        self._chains: set[asyncio.Task[None]] = set()
        self._wakeup: asyncio.Future[None] | None = None
        self._wake_at_items = EVERY_ARRIVAL
        self._hold_until: float | None = None
        self._baseline = BaselineSchedule(clock())
        self._probing: Batch | None = None
        self._circuits = {"batch": Circuit.CLOSED, "direct": Circuit.CLOSED}
        self._measured_at = clock()
        self._was_queued = False
        self._hung_in_row = 0
        self.task = self._loop.create_task(self._run_loop(), name="dtesn-batch-loop")

    @property
    def live(self) -> bool:
        """False while workers hang again and again."""
        return self._hung_in_row < HUNG_IN_A_ROW

    async def end(self) -> None:
        """Cancel the loop and the batches under way."""
        tasks = [self.task, *self._chains]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for batch in list(self._core.ledger.running.values()):  # cancelled before its first step
            self._core.ledger.ended(batch, self._clock(), queued=0, span=0.0)

    def arrived(self, item: Item) -> None:
        """An item was queued: the baseline gives way, and the loop looks where this may change what it would do."""
        core = self._core
        if self._probing is not None and core.runner.drop([self._probing.items[0].id]):
            core.ledger.left_out(self._probing.items[0])
        if core.queue.items >= self._wake_at_items or (self._hold_until is not None and planner.urgent(core, item, self._hold_until)):
            self.wake()

    def wake(self) -> None:
        """Look again."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # -- choosing ------------------------------------------------------------------------------------------------

    async def _run_loop(self) -> None:
        until: float | None = None
        while True:
            until = self._dispatch(until)
            self._wakeup = self._loop.create_future()
            timer = None if until is None else self._loop.call_later(max(until - self._clock(), SHORTEST_HOLD), self.wake)
            try:
                await self._wakeup
            finally:
                if timer is not None:
                    timer.cancel()

    def _dispatch(self, waited_until: float | None) -> float | None:
        """Start every batch that can start now; returns when to look again, or None.

        A timer may be early by its resolution (a millisecond in uvloop): what was waited for until then is due.
        """
        while True:
            now = self._clock()
            if waited_until is not None and now < waited_until <= now + TIMER_RESOLUTION:
                now = waited_until
            chosen = self._choose(now)
            if isinstance(chosen, Batch):
                self._start(chosen)
            else:
                return chosen.until if chosen is not None else self._start_baseline_run(now)

    def _choose(self, now: float) -> Batch | Hold | None:
        """The planner's choice, with its consequences: hopeless items answered, and which arrival wakes the loop next."""
        core = self._core
        self._policies.read_load(now)
        self._watch_breakers(now)
        self._hold_until = None
        try:
            chosen, dropped = planner.choose(core, now)
        except Exception as error:  # noqa: BLE001 - whatever a policy raises must not end the loop; counted, logged, tested
            already = core.strategy.name == "fixed"
            self._policies.strategy_failed(error, now)
            self._wake_at_items = NO_ARRIVAL
            return Hold(now + (RETRY_LOOP if already else 0.0), 0)
        for item in dropped:
            self._answers.hopeless(item, "dispatch")
        if isinstance(chosen, Batch):
            self._wake_at_items = EVERY_ARRIVAL
            for item in chosen.items:
                if chosen.fallback:
                    self._watch.tell(self._watch.observer.direct, "breaker")
                if item.bulk is not None:
                    item.bulk.left_queue()
                    item.bulk = None
        elif isinstance(chosen, Hold):
            self._wake_at_items = chosen.items
            self._hold_until = chosen.until
        else:
            self._wake_at_items = NO_ARRIVAL if self._busy() else EVERY_ARRIVAL
        core.ledger.decided(held=self._hold_until is not None, places=core.device_places())
        return chosen

    def _busy(self) -> bool:
        return len(self._core.ledger.running) >= self._core.device_places()

    # -- running -------------------------------------------------------------------------------------------------

    def _start(self, batch: Batch) -> None:
        task = self._loop.create_task(self._chain(batch))
        self._chains.add(task)
        task.add_done_callback(self._chains.discard)

    async def _chain(self, batch: Batch | None) -> None:
        """Run a batch, then at once the next that is ready: before the answers of the last are handled."""
        try:
            while batch is not None:
                await self._run(batch)
                chosen = self._choose(self._clock())
                batch = chosen if isinstance(chosen, Batch) else None
                if batch is not None and self._core.queue.items and not self._busy():
                    self.wake()  # more places have become free than this one
        finally:
            self.wake()

    async def _run(self, batch: Batch) -> None:
        core = self._core
        span = core.returning_span
        try:
            result = await execute(batch, self._context)
        except BaseException as error:  # cancelled too: each of its requests gets its one outcome before it goes on
            core.ledger.ended(batch, self._clock(), queued=core.queue.items, span=span)
            if batch.probe:
                (core.circuits.direct if batch.direct else core.circuits.batch).probe_abandoned()
            for item in batch.items:
                if item.state is State.COMPUTING:
                    self._answers.settle(item, ComputeFailed(f"the run ended with {type(error).__name__}"))
            if batch.idle_probe:
                self._baseline_ended(0.0, complete=False)
            raise
        now = self._clock()
        core.ledger.ended(batch, now, queued=core.queue.items, span=span)
        self._policies.learn(batch, result, now)
        if batch.idle_probe:
            self._baseline_ended(result.seconds, complete=result.clean)
            return
        self._count(batch, result, now)
        self._measure_concurrency(result, now)
        self._loop.call_soon(self._report, batch, result, now)

    # -- after a batch -------------------------------------------------------------------------------------------

    def _count(self, batch: Batch, result: BatchResult, now: float) -> None:
        """The breaker counts a batch only if no item succeeded and the error was not the input's."""
        breaker = self._core.circuits.direct if batch.direct else self._core.circuits.batch
        if result.succeeded or result.failed > result.blamed:
            breaker.record(success=result.succeeded > 0, probe=batch.probe, now=now)
        elif batch.probe:
            breaker.probe_abandoned()
        self._watch_breakers(now)

    def _watch_breakers(self, now: float) -> None:
        core, circuits = self._core, self._core.circuits
        if not circuits.enabled:
            return
        for name, breaker in (("batch", circuits.batch), ("direct", circuits.direct)):
            state = breaker.state(now)
            if state is self._circuits[name]:
                continue
            self._circuits[name] = state
            self._watch.tell(self._watch.observer.breaker_changed, BreakerChanged(name, state.value))
            if name == "direct" and state is Circuit.OPEN:  # nothing queued for it could run before its deadline is spent
                falls_back = circuits.falls_back(now)
                doomed = [item for item in core.queue if item.direct or falls_back]
                self._answers.fail(doomed, BreakerOpen("direct processing fails too", retry_after=self._answers.retry_after()))

    def _measure_concurrency(self, result: BatchResult, now: float) -> None:
        core = self._core
        queued = core.queue.items >= core.limit()
        core.concurrency.measure(
            nodes=result.report.nodes if result.report is not None else 0,
            seconds=now - self._measured_at,
            saturated=self._was_queued and queued,
            high_load=core.load is not None and core.load > core.config.high_load_threshold,
            now=now,
        )
        self._measured_at, self._was_queued = now, queued

    def _report(self, batch: Batch, result: BatchResult, now: float) -> None:
        efficiency = self._policies.record(batch, result, now)
        tell, observer = self._watch.tell, self._watch.observer
        if result.cause:
            tell(observer.bisected, Bisected(result.cause, len(batch.items), result.runs - 1, result.undecided))
        tell(observer.batch_done, batch_done(batch, result, max_batch_size=self._core.config.max_batch_size, efficiency=efficiency))

    def _out_of_memory(self, works: Sequence[Work]) -> None:
        now, core = self._clock(), self._core
        if core.memory.out_of_memory(core.runner.bytes_of(works), len(works), core.runner.byte_cap(), now):
            core.concurrency.out_of_memory(now)

    def _lost(self, reason: str) -> None:
        if reason == "hung":
            self._hung_in_row += 1
        self._watch.tell(self._watch.observer.worker_restarted, reason)

    def _ran(self) -> None:
        self._hung_in_row = 0

    # -- the baseline --------------------------------------------------------------------------------------------

    def _start_baseline_run(self, now: float) -> float | None:
        """Run one item for nobody where the device is idle and the baseline due; returns when to look again."""
        core = self._core
        if not self._policies.probes or core.draining or core.ledger.running or core.queue.items:
            return None
        if now < self._baseline.due_at():
            return self._baseline.due_at()
        made = self._policies.probe()
        if made is None:
            return None
        payload, work = made
        waiter: asyncio.Future[object] = self._loop.create_future()
        inf = float("inf")
        item = Item(-next(core.ids), payload, work, 2, now, inf, now, True, 0.0, 0.0, work.nodes, waiter, state=State.COMPUTING)
        self._probing = planner.idle_probe(core, item, now)
        self._start(self._probing)
        return None

    def _baseline_ended(self, seconds: float, *, complete: bool) -> None:
        self._probing = None
        self._baseline.ended(seconds, complete=complete, now=self._clock())
