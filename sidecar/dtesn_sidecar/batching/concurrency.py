"""How many batches run at once: from 1 to the number of workers, by what was measured to pay. Pure."""

from __future__ import annotations

PERIOD = 2.0
"""Seconds of backlog over which one setting is measured."""

REST = 20.0
"""Seconds between trials."""

WORTH = 1.03
"""One more place must bring this to stay; one fewer must cost no more than this to stay."""


class AdaptiveConcurrency:
    """Starts at every worker. Falls at once after out-of-memory, and at high load where a trial shows that one fewer
    costs nothing; rises by trial while measured throughput does. Only saturated time is measured: without a backlog
    throughput is what arrives, whatever the places. Then a place more is taken back without a trial, since it saves waiting.
    """

    __slots__ = ("_busy", "_nodes", "_rate", "_rest_until", "_trial", "places", "workers")

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.places = workers
        self._nodes = 0.0
        self._busy = 0.0
        self._rate: float | None = None
        self._trial = 0
        self._rest_until = 0.0

    def out_of_memory(self, now: float) -> None:
        """One place fewer, at once."""
        self.places = max(1, self.places - 1)
        self._restart(now, rest=REST)
        self._trial = 0

    def resize(self, workers: int) -> None:
        """The number of workers changed; new ones are used at once."""
        self.places = max(1, min(workers, self.places + max(0, workers - self.workers)))
        self.workers = workers

    def measure(self, *, nodes: int, seconds: float, saturated: bool, high_load: bool, now: float) -> None:
        """Take what was computed in the last `seconds`; `saturated`: all places were busy and a whole batch more was queued."""
        if not saturated:
            self._relax(high_load=high_load, now=now)
            return
        self._nodes += nodes
        self._busy += seconds
        if self._busy < PERIOD:
            return
        rate = self._nodes / self._busy
        self._nodes = self._busy = 0.0
        if self._trial:
            base = self._rate or rate
            keep = rate >= base * WORTH if self._trial > 0 else rate * WORTH >= base
            if not keep:
                self.places = max(1, min(self.workers, self.places - self._trial))
            self._trial = 0
            self._rest_until = now + REST
        elif now >= self._rest_until:
            step = -1 if high_load and self.places > 1 else 1 if not high_load and self.places < self.workers else 0
            if step:
                self._rate = rate
                self._trial = step
                self.places += step

    def _relax(self, *, high_load: bool, now: float) -> None:
        """Without a backlog: a trial of one place fewer is called off, and one place more is taken where there is one."""
        if self._trial < 0:
            self.places = min(self.workers, self.places + 1)
            self._restart(now, rest=REST)
        elif self.places < self.workers and not high_load and now >= self._rest_until:
            self.places += 1
            self._restart(now, rest=REST)
        self._trial = 0

    def _restart(self, now: float, *, rest: float) -> None:
        self._nodes = self._busy = 0.0
        self._rate = None
        self._rest_until = now + rest
