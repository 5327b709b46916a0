"""DynamicBatchManager: what its users call. Requests come in here and their answers go out.

The loop that runs batches is `dispatch`, how requests end `answers`, every decision `entrance` and `planner`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, cast

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.errors import Draining, DTESNError, InvalidInput, QueueFull, Unavailable

from .answers import Answers
from .budget import SchedulingBudget
from .bulk import BulkCall
from .core import Core
from .dispatch import Dispatcher
from .entrance import SHEDDING, RefusedError, admit, charge_of, displaced_by, turned_away
from .figures import Health, snapshot_of
from .item import Bulk, Item
from .ledger import Ledger
from .outcomes import Outcomes
from .performance import PerformanceCalculator, make_calculator
from .policies import LoadTracker, Policies, Probe
from .protocols import CALLER, BatchObserver, BatchRunner, Refused, RequestDone, SilentObserver, Work
from .runners import FunctionRunner, Process
from .snapshot import Completed, ManagerSnapshot
from .strategies import BatchStrategy
from .watch import Watch

log = logging.getLogger(__name__)


class DynamicBatchManager:
    """Batches any async function from a list of items to a list of results.

    `process` is that function, or a `BatchRunner`; it may be set until `start()`, which raises RuntimeError without
    it. `cost` maps an item to its nodes or its `Work` (default: one node). `load_tracker` returns the load in
    [0, 1] or None for no data; it is read every 100 ms and must not block (an async one is polled in the background).
    `strategy` and `performance` are a name or an object of the Protocol. `budget` overrides `max_batch_nodes` and
    `max_batch_size`. `probe` returns an item and its work for the unbatched baseline, run on an idle device.
    `clock` gives monotonic seconds (default: the loop's time, which under uvloop is read once per turn and rounded to
    milliseconds: pass `time.monotonic` there). `rng` is for tests.
    """

    def __init__(
        self,
        config: BatchConfiguration | None = None,
        load_tracker: LoadTracker | None = None,
        process: Process | BatchRunner | None = None,
        *,
        budget: SchedulingBudget | None = None,
        cost: Callable[[object], int | Work] | None = None,
        strategy: str | BatchStrategy | None = None,
        performance: str | PerformanceCalculator | None = None,
        observer: BatchObserver | None = None,
        probe: Probe | None = None,
        clock: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config if config is not None else BatchConfiguration()
        self.process = process
        self._load_tracker = load_tracker
        self._budget = budget
        self._cost = cost
        self._strategy = strategy
        self._performance = make_calculator(performance, self.config.performance_window_size)
        self._watch = Watch(observer if observer is not None else SilentObserver())
        self._probe = probe
        self._clock_given = clock
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - jitter, no secret
        self._next_id = 0
        self._starting = asyncio.Lock()
        self._running = self._draining = False
        self._dispatcher: Dispatcher | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the workers ready and begin. RuntimeError without `process`; a second call does nothing."""
        async with self._starting:
            if not self._running:
                await self._start()

    async def _start(self) -> None:
        if self.process is None:
            raise RuntimeError("process is not set: pass it to DynamicBatchManager or set it before start()")
        self._loop = loop = asyncio.get_running_loop()
        self._clock = clock = self._clock_given if self._clock_given is not None else loop.time
        if hasattr(self.process, "run"):
            self._runner = cast("BatchRunner", self.process)
        else:
            workers = self.config.max_concurrent_batches or 1
            self._runner = FunctionRunner(self.process, workers=workers, clock=clock)
        await self._runner.start()
        now = clock()
        name, performance = self._performance
        self._ledger = Ledger(performance, workers=self._runner.workers, now=now)
        self._core = core = Core(
            self.config, runner=self._runner, ledger=self._ledger, strategy=self._strategy, budget=self._budget, now=now
        )
        self._outcomes = Outcomes(loop, clock, self._request_done)
        self._answers = Answers(core, self._outcomes, self._watch, clock, self._rng)
        self._policies = Policies(core, self._watch, self._load_tracker, self._probe, name)
        self._draining = False
        self._running = True
        self._dispatcher = Dispatcher(core, self._answers, self._policies, self._watch, clock)
        self._dispatcher.task.add_done_callback(self._loop_ended)

    async def drain(self) -> None:
        """Refuse new requests, close every window, and return once everything accepted is answered."""
        if self._running and self._dispatcher is not None:
            self._draining = self._core.draining = True
            self._dispatcher.wake()
            await self._outcomes.empty()

    async def stop(self, *, drain: bool = True) -> None:
        """Drain, then end the workers. With `drain=False`, or when cancelled, what is left fails with Draining."""
        if not self._running or self._dispatcher is None:
            return
        try:
            if drain:
                await self.drain()
        finally:
            self._draining = self._core.draining = True
            self._answers.fail_all(Draining("the server is shutting down", retry_after=1.0))
            self._running = False
            await self._policies.end()
            await self._dispatcher.end()
            self._performance = self._policies.performance_name, self._policies.performance
            self._outcomes.flush()
            await self._runner.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    @property
    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._running and self._dispatcher is not None and not self._dispatcher.task.done()

    @property
    def running(self) -> bool:
        """Whether it is between start and stop."""
        return self._running

    @property
    def live(self) -> bool:
        """False while workers hang again and again: then liveness must fail."""
        return self._dispatcher is None or self._dispatcher.live

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """The loop never ends by itself; if it does, nobody is left waiting and health knows."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the batch loop died", exc_info=error)
        if self._running:
            self._answers.fail_all(Unavailable("the batch loop is dead", retry_after=1.0))

    # -- requests ------------------------------------------------------------------------------------------------

    async def submit(self, item: object, priority: int = 1, timeout: float | None = None, *, direct: bool = False) -> object:  # noqa: ASYNC109
        """The result of one item, computed with others (alone if `direct`).

        `timeout` in seconds covers queue and compute; None: the configured or adaptive default. Raises InvalidInput,
        RequestTooLarge, QueueFull, BreakerOpen, Draining or Unavailable at once; DeadlineExceeded at the deadline; and
        whatever the process function raised for this item. Cancelling the caller withdraws the item.
        """
        return (await self.submit_detailed(item, priority, timeout, direct=direct)).value

    async def submit_detailed(
        self,
        item: object,
        priority: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        direct: bool = False,
    ) -> Completed:
        """As `submit`, with the times and the batch that the value came from."""
        return await self._wait_for(*self._accept(item, self._work(item), priority, timeout, direct, None))

    async def submit_many(
        self,
        items: Sequence[object],
        priority: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        direct: bool = False,
    ) -> list[object]:
        """The results of many items in their order, each a value or the exception that it ended with.

        At most 2 x limit of them are queued at once, so that others are served between; they are submitted in an
        order that gives each batch a like share of the cost. `timeout` is for the call as a whole.
        """
        results: list[object] = [None] * len(items)

        def each(index: int, outcome: Completed | Exception) -> None:
            results[index] = outcome.value if isinstance(outcome, Completed) else outcome

        await self.submit_each(items, each, priority, timeout, direct=direct)
        return results

    async def submit_each(
        self,
        items: Sequence[object],
        each: Callable[[int, Completed | Exception], None],
        priority: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        direct: bool = False,
        spread: bool = True,
    ) -> None:
        """As `submit_many`, but `each(index, outcome)` is told of every item as it is done. `spread=False`: in the given order."""
        call = BulkCall(lambda: 2 * self._core.limit() if self._running else 1)
        works = [self._work(item) for item in items]

        async def one(index: int, left: float | None) -> Completed:
            try:
                accepted = self._accept(items[index], works[index], priority, left, direct, call)
            except BaseException:
                call.left_queue()
                raise
            return await self._wait_for(*accepted)

        deadline = None if timeout is None else self._now() + self._timeout(timeout)
        costs = [work.nodes for work in works]
        await call.run(costs, one, deadline=deadline, clock=self._now, spread=spread, each=each)

    def turn_away(self, priority: int, timeout: float | None, *, direct: bool = False) -> DTESNError | None:
        """Refuse a request before anything else is known of it: the error that `submit` would raise whatever the item, or None.

        It looks only while requests are being refused: the first one is `submit`'s.
        """
        if not self.alive or self._draining:
            return None
        now, ledger = self._clock(), self._ledger
        if not ledger.timeouts.shedding(now) or (timeout is not None and timeout > self.config.max_timeout):
            return None
        seconds = self.default_timeout() if timeout is None else timeout
        refused = turned_away(self._core, priority=priority, timeout=seconds, direct=direct, now=now, jitter=self._rng.random())
        return None if refused is None else self._refused(refused, priority, now)

    # -- configuration and figures -------------------------------------------------------------------------------

    def reconfigure(self, config: BatchConfiguration) -> None:
        """Swap the configuration in, between two batches. What is queued keeps its place."""
        resized = config.performance_window_size != self.config.performance_window_size
        self.config = config
        if not self._running or self._dispatcher is None:
            if resized:
                self._performance[1].resize(config.performance_window_size)
            return
        if isinstance(self._runner, FunctionRunner):
            self._runner.workers = config.max_concurrent_batches or 1
        self._ledger.workers = self._runner.workers
        self._core.reconfigure(config)
        if resized:
            self._policies.resize(config.performance_window_size)
        self._dispatcher.wake()

    def busy_share(self) -> float:
        """Share of the workers that were busy over the last second."""
        return self._ledger.busy_share(self._clock()) if self._running else 0.0

    def predict(self, work: Work) -> float | None:
        """Predicted compute seconds of one request alone, or None."""
        return self._ledger.cost.predict([work]) if self._running else None

    def retry_after(self) -> float:
        """Seconds after which a refused client should ask again."""
        return self._answers.retry_after() if self._running else 1.0

    def default_timeout(self) -> float:
        """Seconds given to a request that names no timeout."""
        if self._running:
            return self._core.default_timeout()
        config = self.config
        return config.default_timeout if config.default_timeout is not None else min(30.0, config.max_timeout)

    def snapshot(self) -> ManagerSnapshot:
        """Everything that metrics and health show, at this moment. RuntimeError before the first `start()`."""
        if self._dispatcher is None:
            raise RuntimeError("the manager was never started")
        now = self._clock()
        policies = self._policies
        if self._running:
            policies.read_load(now)
            self._ledger.advance(now, queued=self._core.queue.items)
            policies.tick(now)
        figures = policies.figures(now)
        health = Health(
            running=self._running,
            alive=self.alive,
            live=self._dispatcher.live,
            draining=self._draining,
            default_timeout=self.default_timeout(),
            performance=policies.performance_name,
            policy_failures=self._watch.failures,
            last_policy_failure=self._watch.last,
        )
        return snapshot_of(self._core, self._ledger, figures, health, now)

    # -- accepting -----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock() if self._running else 0.0

    def _work(self, payload: object) -> Work:
        if self._cost is None:
            return Work()
        cost = self._cost(payload)
        return cost if isinstance(cost, Work) else Work(nodes=cost)

    def _accept(
        self, payload: object, work: Work, priority: int, timeout: float | None, direct: bool, bulk: Bulk | None
    ) -> tuple[Item, asyncio.Future[Completed]]:
        if not self._running or self._draining or self._dispatcher is None:
            detail = "the server is shutting down" if self._draining else "the manager is not running"
            raise self._refuse("draining", priority, Draining(detail, retry_after=1.0))
        if self._dispatcher.task.done():
            raise self._refuse("dead", priority, Unavailable("the batch loop is dead", retry_after=1.0))
        now = self._clock()
        core, ledger = self._core, self._ledger
        seconds = self._timeout(timeout)
        try:
            admission = admit(core, work, priority=priority, timeout=seconds, direct=direct, now=now, jitter=self._rng.random())
        except RefusedError as refused:
            raise self._refused(refused, priority, now) from None
        charge = charge_of(work)
        for displaced in displaced_by(core, priority, charge):
            ledger.timeouts.shed(now)
            error = QueueFull("displaced by a request of higher priority", retry_after=self._answers.retry_after())
            self._answers.settle(displaced, error, "displaced")
        waiter: asyncio.Future[Completed] = self._loop.create_future()
        self._next_id += 1
        item = Item(
            id=self._next_id,
            payload=payload,
            work=work,
            priority=priority,
            arrival=now,
            deadline=now + seconds,
            key=admission.key,
            direct=direct,
            fixed=admission.fixed,
            marginal=admission.marginal,
            charge=charge,
            waiter=waiter,
            bulk=bulk,
            predicted_wait=admission.wait,
            caller=CALLER.get(),
            predicted_finish=admission.finish,
        )
        ledger.accepted(now, queued=core.queue.items, timeout=seconds)
        core.queue.push(item)
        self._outcomes.add(item, self._answers.expired)
        if direct:
            self._watch.tell(self._watch.observer.direct, "requested")
        self._dispatcher.arrived(item)
        return item, waiter

    async def _wait_for(self, item: Item, waiter: asyncio.Future[Completed]) -> Completed:
        try:
            return await waiter
        except asyncio.CancelledError:
            self._answers.withdraw(item, Unavailable("cancelled by its caller"), "cancelled")
            raise
        finally:
            del item, waiter  # an error's traceback holds this frame, and the waiter holds the error

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self.default_timeout()
        longest = self.config.max_timeout
        if type(timeout) not in (int, float) or not 0.0 < timeout <= longest:
            expected = f"more than 0 and at most {longest:g} seconds"
            raise InvalidInput(f"timeout is {timeout!r}; expected {expected}", field="timeout", value=timeout, expected=expected)
        return float(timeout)

    def _refused(self, refused: RefusedError, priority: int, now: float) -> DTESNError:
        if refused.reason in SHEDDING:
            self._ledger.timeouts.shed(now)
        return self._refuse(refused.reason, priority, refused.take())

    def _refuse(self, reason: str, priority: int, error: DTESNError) -> DTESNError:
        self._watch.tell(self._watch.observer.refused, Refused(reason, priority, error.status, error.retry_after))
        return error

    def _request_done(self, event: RequestDone) -> None:
        self._watch.tell(self._watch.observer.request_done, event)
