"""The default timeout of a request that names none: a multiple of the recent p99. Pure."""

from __future__ import annotations

from collections import deque

MULTIPLE = 4.0
SAMPLES_MIN = 100
SAMPLES_KEPT = 1000
BEFORE_SAMPLES = 30.0
SHEDDING_SPAN = 1.0
RECOMPUTE_EVERY = 50


class AdaptiveTimeout:
    """4 x p99 of total time over requests that finished while nothing was shed, within [shortest, longest].

    30 s below 100 samples. While requests are refused or dropped (and for a second after) it is frozen: overload
    must not teach it patience.
    """

    __slots__ = ("_p99", "_samples", "_shed_at", "_since")

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES_KEPT)
        self._shed_at = float("-inf")
        self._since = 0
        self._p99: float | None = None

    def shed(self, now: float) -> None:
        """A request was refused, displaced or dropped for want of time."""
        self._shed_at = now

    def shedding(self, now: float) -> bool:
        """Whether a request was shed within the last second."""
        return now - self._shed_at < SHEDDING_SPAN

    def finished(self, seconds: float, now: float) -> None:
        """A request was answered after `seconds` in all."""
        if self.shedding(now):
            return
        self._samples.append(seconds)
        self._since += 1
        if len(self._samples) >= SAMPLES_MIN and (self._p99 is None or self._since >= RECOMPUTE_EVERY):
            ordered = sorted(self._samples)
            self._p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
            self._since = 0

    def seconds(self, *, shortest: float, longest: float) -> float:
        """The default timeout now."""
        return min(max(BEFORE_SAMPLES if self._p99 is None else MULTIPLE * self._p99, shortest), longest)
