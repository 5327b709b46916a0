"""What others may have written (load trackers, strategies, performance calculators, probes), kept from harming the loop.

Where one raises, its part is done by the default; it is counted, logged once by `watch` and shown in the snapshot.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

from .batch import Batch, BatchResult
from .core import Core
from .performance import Performance, PerformanceCalculator, WindowPerformance
from .protocols import Work
from .watch import Watch

LoadTracker = Callable[[], float | None] | Callable[[], Awaitable[float | None]]
Probe = Callable[[], tuple[object, Work]]

LOAD_INTERVAL = 0.1
ASYNC_LOAD_INTERVAL = 1.0


class Policies:
    """Calls them. `performance` is the calculator in use, by `performance_name`."""

    def __init__(self, core: Core, watch: Watch, load: LoadTracker | None, probe: Probe | None, performance_name: str) -> None:
        self._core, self._watch, self._load, self._probe = core, watch, load, probe
        self._load_at = float("-inf")
        self._load_task: asyncio.Task[None] | None = None
        self.performance_name = performance_name

    @property
    def performance(self) -> PerformanceCalculator:
        """The calculator in use."""
        return self._core.ledger.performance

    def read_load(self, now: float) -> None:
        """Take the load, at most every 100 ms; an async tracker is polled by a task, every second."""
        if self._load is None or self._load_task is not None or now - self._load_at < LOAD_INTERVAL:
            return
        self._load_at = now
        load = self._guard("load", self._load)
        if inspect.isawaitable(load):
            self._load_task = asyncio.get_running_loop().create_task(self._poll_load(cast("Awaitable[float | None]", load)))
        else:
            self._take_load(load)

    def tick(self, now: float) -> None:
        """Move the sizes."""
        if self._guard("strategy", self._core.tick, now) is None:
            self._core.fall_back(now)

    def strategy_failed(self, error: Exception, now: float) -> None:
        """A strategy raised where it chose."""
        self._watch.failed("strategy", error)
        self._core.fall_back(now)

    def probe(self) -> tuple[object, Work] | None:
        """An item for the unbatched baseline; None where there is none (any more: one that raises is not asked again)."""
        made = None if self._probe is None else self._guard("probe", self._probe)
        if made is None:
            self._probe = None
        return cast("tuple[object, Work] | None", made)

    @property
    def probes(self) -> bool:
        """Whether the unbatched baseline is measured."""
        return self._probe is not None

    def learn(self, batch: Batch, result: BatchResult, now: float) -> None:
        """Take a run as a sample of cost and of the baseline."""
        if self._guard("performance", self._core.ledger.learn, batch, result, now) is None:
            self._replace_performance()

    def record(self, batch: Batch, result: BatchResult, now: float) -> float | None:
        """Take a finished batch into the figures; its device efficiency."""
        core = self._core
        try:
            return core.ledger.record(batch, result, now, max_batch_size=core.config.max_batch_size, load=core.load)
        except Exception as error:  # noqa: BLE001 - a calculator that raises is replaced; counted, logged, tested
            self._watch.failed("performance", error)
            self._replace_performance()
            return None

    def figures(self, now: float) -> Performance:
        """The figures over the window of batches."""
        figures = self._guard("performance", self.performance.figures, now)
        if not isinstance(figures, Performance):
            self._replace_performance()
            return Performance()
        return figures

    def resize(self, window: int) -> None:
        """`performance_window_size` changed."""
        self._guard("performance", self.performance.resize, window)

    async def end(self) -> None:
        """Stop polling."""
        if self._load_task is not None:
            self._load_task.cancel()
            await asyncio.gather(self._load_task, return_exceptions=True)

    def _replace_performance(self) -> None:
        self._core.ledger.performance = WindowPerformance(self._core.config.performance_window_size)
        self.performance_name = "window"

    async def _poll_load(self, first: Awaitable[float | None]) -> None:
        pending: object = first
        while True:
            try:
                self._take_load(await pending if inspect.isawaitable(pending) else pending)
            except Exception as error:  # noqa: BLE001 - a provider that raises has no data; counted, logged, tested
                self._watch.failed("load", error)
                self._core.load = None
            await asyncio.sleep(ASYNC_LOAD_INTERVAL)
            pending = self._guard("load", self._load)

    def _take_load(self, load: object) -> None:
        number = isinstance(load, int | float) and load == load
        self._core.load = min(max(float(cast("float", load)), 0.0), 1.0) if number else None

    def _guard(self, policy: str, call: Callable[..., object] | None, *args: object) -> object:
        if call is None:
            return None
        try:
            return call(*args)
        except Exception as error:  # noqa: BLE001 - whatever a policy raises must not end the loop; counted, logged, tested
            self._watch.failed(policy, error)
            return None
