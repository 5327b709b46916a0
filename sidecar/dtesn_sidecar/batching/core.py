"""The state that the manager's decisions look at, and what is derived from it. No asyncio, `now` passed in.

Who is accepted is decided in `entrance`, which batch runs next in `planner`; each rule lives in a policy.
"""

from __future__ import annotations

import itertools
import math

import msgspec

from dtesn_api.spec import BatchConfiguration

from .admission import Outlook, wait_ahead
from .breaker import Circuit
from .budget import SchedulingBudget
from .circuits import Circuits
from .concurrency import AdaptiveConcurrency
from .ledger import Ledger
from .memory import MemoryCap
from .protocols import BatchRunner
from .queue import Ahead, RequestQueue
from .sizing import TICK, Size, SizeView, Smoothed, adaptive_base, largest_within, longest_batch, places_margin, saturation, stable_size
from .strategies import BatchStrategy, make_strategy
from .windows import returning_span


class Core:
    """Queue, sizes, breakers, memory and concurrency. `load` in [0, 1] (None: no data) and `draining` are the manager's to set."""

    def __init__(
        self,
        config: BatchConfiguration,
        *,
        runner: BatchRunner,
        ledger: Ledger,
        strategy: str | BatchStrategy | None,
        budget: SchedulingBudget | None,
        now: float,
    ) -> None:
        self._budget = budget
        self._own_strategy = strategy
        self.ids = itertools.count(1)
        self.runner = runner
        self.ledger = ledger
        self.config = self._within_budget(config)
        self.strategy = make_strategy(strategy if strategy is not None else config.strategy)
        self.queue = RequestQueue(aging=self.config.aging_ms / 1000.0)
        self.circuits = Circuits(config)
        self.memory = MemoryCap()
        self.concurrency = AdaptiveConcurrency(runner.workers)
        self.load: float | None = None
        self.draining = False
        self.places = 1
        self.base = self.config.target_batch_size
        self._backlog_limit = 1
        self._backlog_at = -math.inf
        self._smoothed = self._unsmoothed(now)
        self._settled = False

    # -- configuration -------------------------------------------------------------------------------------------

    def reconfigure(self, config: BatchConfiguration) -> None:
        """Swap the configuration in; the queue, the costs and the breakers' states stay."""
        aging = self.config.aging_ms
        self.config, before = self._within_budget(config), self.strategy.name
        self.strategy = make_strategy(self._own_strategy if self._own_strategy is not None else config.strategy)
        self._settled = self._settled and self.strategy.name == before
        self.circuits.configure(config)
        self._backlog_at = -math.inf
        if config.aging_ms != aging:
            old = list(self.queue)
            self.queue = RequestQueue(aging=config.aging_ms / 1000.0)
            for item in old:
                self.queue.push(item)

    def fall_back(self, now: float) -> None:
        """A strategy raised: the `fixed` one does its part until the next configuration."""
        self.strategy = make_strategy("fixed")
        self._backlog_at = -math.inf
        self._smoothed = self._unsmoothed(now)
        self._settled = False

    def _unsmoothed(self, now: float) -> Smoothed:
        window = math.sqrt(self.config.min_batch_wait_ms * self.config.max_batch_wait_ms) / 1000.0
        return Smoothed(Size(self.base, window), now)

    def _within_budget(self, config: BatchConfiguration) -> BatchConfiguration:
        budget = self._budget
        if budget is None:
            return config
        most = budget.max_num_seqs
        return msgspec.structs.replace(
            config,
            max_batch_nodes=budget.token_budget,
            max_batch_size=most,
            target_batch_size=min(config.target_batch_size, most),
            min_batch_size=min(config.min_batch_size, most),
        )

    # -- sizes ---------------------------------------------------------------------------------------------------

    def device_places(self) -> int:
        """Batches at once."""
        workers = max(1, self.runner.workers)
        if workers != self.concurrency.workers:
            self.concurrency.resize(workers)
        configured = self.config.max_concurrent_batches
        return min(workers, configured) if configured is not None else self.concurrency.places

    def limit(self) -> int:
        """Items per batch now in force."""
        return self._smoothed.limit(self.config.min_batch_size, self.config.max_batch_size)

    @property
    def window(self) -> float:
        """Seconds of the window now in force."""
        return self._smoothed.window

    @property
    def returning_span(self) -> float:
        """Seconds within which clients that were answered are expected back."""
        shortest, longest = self.config.min_batch_wait_ms / 1000.0, self.config.max_batch_wait_ms / 1000.0
        return returning_span(self.ledger.batch_seconds, shortest=shortest, longest=longest)

    @property
    def by_forecast(self) -> bool:
        """Whether a batch has as many places as were forecast; otherwise as many as the limit."""
        return self._smoothed.by_forecast

    def rate(self) -> float:
        """Arrivals per second for each device."""
        return self.ledger.arrivals.per_second / self.device_places()

    def tick(self, now: float) -> float:
        """Move size and window towards their aim by the ticks that have passed; returns the predicted wait."""
        config, ledger = self.config, self.ledger
        fixed, marginal = ledger.batch_fixed, ledger.item_marginal
        longest = longest_batch(config.max_batch_seconds, fixed=fixed, marginal=marginal, split_seen=ledger.cost.split_seen())
        largest = largest_within(longest, fixed=fixed, marginal=marginal, largest=config.max_batch_size)
        largest = max(largest, config.min_batch_size)
        self.base = config.target_batch_size
        if config.enable_adaptive_sizing:
            base = adaptive_base(
                fixed=fixed,
                marginal=marginal,
                smallest=config.min_batch_size,
                largest=config.max_batch_size,
                factor=config.load_adjustment_factor,
                deadline=ledger.deadline,
                longest_run=longest,
            )
            self.base = self.base if base is None else base
        wait = self.predicted_wait(now)
        view = SizeView(
            load=self.load,
            base=self.base,
            smallest=config.min_batch_size,
            largest=largest,
            target=config.target_batch_size,
            low=config.low_load_threshold,
            high=config.high_load_threshold,
            factor=config.load_adjustment_factor,
            shortest_window=config.min_batch_wait_ms / 1000.0,
            longest_window=config.max_batch_wait_ms / 1000.0,
            predicted_wait=wait,
            stable=stable_size(self.rate(), fixed=fixed, marginal=marginal, largest=largest),
        )
        aim = self.strategy.size(view)
        if not self._settled and not aim.by_forecast:  # of target and longest wait there is nothing to smooth
            self._smoothed = Smoothed(aim, now)
        self._settled = True
        self._smoothed.advance(aim, config.adaptation_rate, now)
        if now - self._backlog_at >= TICK:
            self._backlog_at = now
            self._backlog_limit = round(self.strategy.size(msgspec.structs.replace(view, predicted_wait=math.inf)).floor)
        return wait

    def next_places(self, dispatched: int, now: float) -> None:
        """Fix the places of the next batch, now that one of `dispatched` items has left and before its members are known."""
        limit, ledger = self.limit(), self.ledger
        if not self.by_forecast:
            self.places = limit
            return
        devices = self.device_places()
        used = saturation(self.rate(), fixed=ledger.batch_fixed, marginal=ledger.item_marginal, largest=self.config.max_batch_size)
        forecast = ledger.forecast(
            now, left_over=self.queue.items, places=devices, dispatched=dispatched, margin=places_margin(used, devices)
        )
        self.places = max(1, min(limit, forecast))

    # -- waiting -------------------------------------------------------------------------------------------------

    def predicted_wait(self, now: float) -> float:
        """Seconds that a request of the lowest class would wait now."""
        queue = self.queue
        return wait_ahead(self.outlook(now, Ahead(queue.items, queue.direct, queue.fixed, queue.marginal)))

    def outlook(self, now: float, ahead: Ahead, fixed: float = 0.0, marginal: float = 0.0, *, direct: bool = False) -> Outlook:
        """What lies before a request with that much `ahead` of it and with `fixed` and `marginal` seconds of its own."""
        ledger, places = self.ledger, self.device_places()
        return Outlook(
            ledger.rest(now, places),
            places,
            1 if self.circuits.state(self.circuits.batch, now) is Circuit.OPEN else self._limit_for(ahead.items),
            ahead.items,
            ahead.fixed,
            ahead.marginal,
            ledger.spread,
            ledger.arrivals.per_second,
            fixed,
            marginal,
            direct,
            ahead.direct,
        )

    def _limit_for(self, queued: int) -> int:
        """The limit that will be in force by the time that many are served: a backlog lifts it at once."""
        limit = self.limit()
        return limit if queued <= limit else min(max(limit, self._backlog_limit), self.config.max_batch_size)

    def default_timeout(self) -> float:
        """Seconds given to a request that names no timeout."""
        config = self.config
        if config.default_timeout is not None:
            return config.default_timeout
        return self.ledger.timeouts.seconds(shortest=config.min_timeout, longest=config.max_timeout)

    # -- direct runs ---------------------------------------------------------------------------------------------

    def max_direct(self) -> int:
        """Fallback runs at once."""
        return self.config.max_direct_concurrency or max(1, self.runner.workers)

    def fallbacks_running(self) -> int:
        """Fallback runs under way."""
        return sum(batch.fallback for batch in self.ledger.running.values())
