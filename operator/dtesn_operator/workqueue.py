"""A queue of keys: each is in it once, is worked on by one worker at a time, and comes back after a failure with growing delays."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY = 0.1
MOST_DELAY = 60.0


def backoff(failures: int, jitter: float) -> float:
    """Seconds before the next attempt after so many failures in a row; `jitter` in [0, 1] adds up to a quarter."""
    return min(MOST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16)) * (1.0 + 0.25 * jitter)


class WorkQueue(Generic[K]):
    """Keys that want work. A key that is added while it is worked on comes again when that ends."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are ready to be worked on."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Now. A delay that was set is over."""
        self._cancel(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wakeup.set()

    def add_after(self, key: K, seconds: float) -> None:
        """In so many seconds, unless it comes earlier."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    async def take(self) -> K:
        """The next key, which is then this worker's until `done` or `failed`."""
        while not self._ready:
            self._wakeup.clear()
            await self._wakeup.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """Its work succeeded."""
        self._failures.pop(key, None)
        self._released(key)

    def failed(self, key: K, after: float | None = None) -> None:
        """Its work failed: again after a growing delay, or after so many seconds if longer."""
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        self._released(key)
        if key not in self._queued:
            self.add_after(key, max(after or 0.0, backoff(failures, self._random())))

    def abandoned(self, key: K) -> None:
        """Its work was cut off. It comes again when somebody adds it."""
        self._working.discard(key)
        self._again.discard(key)

    def clear(self) -> None:
        """Forget every key and every delay."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._queued.clear()
        self._again.clear()
        self._failures.clear()

    def _released(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _cancel(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
