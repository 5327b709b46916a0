"""The unbatched baseline: what one item alone takes of a worker, and when that is measured on an idle device. Pure.

Batches and singles are measured under different conditions (a baseline on an idle machine; batches beside other workers, the event loop
and strangers), so a run counts with its `undisturbed` seconds: from dispatch to done, less the share in which its worker waited
for a core. Both sides of the comparison are of that kind.
"""

from __future__ import annotations

import math
from collections import deque

CALIBRATION_RUNS = 3
CALIBRATION_SECONDS = 0.3
SHARE = 0.01
ABANDONED_PAUSE = 1.0

FORGETTING = 0.98
"""Weight of the past per sample: the last 50 make up 64 % of the fit."""

AGEING = 60.0
"""Seconds after which a sample weighs 1 / e of a new one: clocks, caches and neighbours change."""

ANCHOR = 0.01
"""Weight of the last estimate, relative to the samples: what holds a direction that they do not excite."""

OUTLIER = 4.0
"""A sample counts at most this many times its prediction; a young fit that exceeds one so many times was learnt from a stall."""

LONGER = 1.0 / 3.0
"""Weight of a sample above the fit: cold caches and strangers only ever make a run longer, and saturated single runs would be warm."""

YOUNG = 8
SWEEPS = 30
HAND_OVERS = 15


def undisturbed(occupied: float, seconds: float, cpu_seconds: float | None) -> float:
    """Seconds that a run would have kept its worker, had that never waited for a core.

    `occupied` from dispatch to done, `seconds` of compute within, `cpu_seconds` of these on a core. What is lost outside compute
    is taken to be lost in the same proportion. None (not known): as they are.
    """
    if cpu_seconds is None or cpu_seconds <= 0.0 or seconds <= 0.0:
        return occupied
    return occupied * min(1.0, cpu_seconds / seconds)


class HandOver:
    """What single runs take of their worker beyond compute: the least of the last few.

    On a busy machine most of it is waiting to be scheduled. Charged to single runs, of which there would be so many, that
    would flatter batching.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=HAND_OVERS)

    def observe(self, seconds: float) -> float:
        """Take one, in seconds; returns what counts."""
        self._last.append(seconds)
        return min(self._last)


class Baseline:
    """T1 = c + a * levels + b * nodes, in seconds, each coefficient >= 0: least squares over samples that fade.

    The constant is the hand-over to the worker and back, which a batch pays once. Each sample weighs by 1 / (levels * nodes), so
    that errors count about relative. The first is taken to be compute alone: so the constant has to be seen.
    """

    __slots__ = ("_at", "_held", "_normal", "_right", "_x")

    def __init__(self) -> None:
        self._x = [0.0, 0.0, 0.0]
        self._at = 0.0
        self._begin_anew()

    def predict(self, levels: float, nodes: float) -> float:
        """Seconds of one item alone."""
        c, a, b = self._x
        return c + a * levels + b * nodes

    def learn(self, levels: float, nodes: float, seconds: float, now: float) -> None:
        """Take one unbatched run."""
        if seconds <= 0.0 or levels <= 0.0 or nodes <= 0.0:
            return
        expected = self.predict(levels, nodes)
        if self._held and seconds > OUTLIER * expected:
            seconds = OUTLIER * expected
        elif self._held < YOUNG and seconds * OUTLIER < expected:
            self._begin_anew()
        if self._held == 0:
            self._x = [0.0, 0.5 * seconds / levels, 0.5 * seconds / nodes]
        kept = FORGETTING * math.exp(-max(0.0, now - self._at) / AGEING)
        self._at = now
        self._held += 1
        weight, row = (LONGER if seconds > expected > 0.0 else 1.0) / (levels * nodes), (1.0, levels, nodes)
        for i, left in enumerate(row):
            self._right[i] = kept * self._right[i] + weight * left * seconds
            for j, right in enumerate(row):
                self._normal[i][j] = kept * self._normal[i][j] + weight * left * right
        self._solve()

    def _begin_anew(self) -> None:
        self._held = 0
        self._right = [0.0, 0.0, 0.0]
        self._normal = [[0.0, 0.0, 0.0] for _ in range(3)]

    def _solve(self) -> None:
        """Coordinate descent from the last estimate, which is the anchor too; no coefficient goes below 0."""
        x, anchor = self._x, tuple(self._x)
        for _ in range(SWEEPS):
            for i, row in enumerate(self._normal):
                rest = self._right[i] - sum(row[j] * x[j] for j in range(3) if j != i)
                x[i] = max(0.0, (rest + ANCHOR * row[i] * anchor[i]) / ((1.0 + ANCHOR) * row[i]))


class BaselineSchedule:
    """Three runs at the start, for at most 300 ms in all; then each run is followed by 99 times its length."""

    __slots__ = ("_at", "_runs", "_seconds")

    def __init__(self, now: float) -> None:
        self._runs = CALIBRATION_RUNS
        self._seconds = CALIBRATION_SECONDS
        self._at = now

    def due_at(self) -> float:
        """When the next run may start, if the device is idle then."""
        return self._at

    def ended(self, seconds: float, *, complete: bool, now: float) -> None:
        """A run took `seconds`; it is not `complete` where a request made it give way."""
        if self._runs > 0:
            self._runs -= 1
            self._seconds -= seconds
            if complete and self._runs > 0 and self._seconds > seconds:
                self._at = now
                return
            self._runs = 0
        self._at = now + seconds * (1.0 / SHARE - 1.0) + (0.0 if complete else ABANDONED_PAUSE)
