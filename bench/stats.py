"""Statistics of the benchmarks: quantiles, interleaved blocks, bootstrap intervals, and the search for a capacity. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A median with its bootstrap 95 % interval."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """In another unit."""
        return Interval(self.median * factor, self.low * factor, self.high * factor)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of the values does not exceed; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def median_interval(values: Sequence[float], *, draws: int = 4000, seed: int = 0) -> Interval:
    """Median and bootstrap 95 % interval (percentiles of the medians of `draws` resamples). Raises ValueError of nothing."""
    if not values:
        raise ValueError("no values")
    data = np.asarray(values, dtype=float)
    medians = np.median(np.random.default_rng(seed).choice(data, (draws, len(data))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Interval(float(np.median(data)), float(low), float(high))


def abba(blocks: int) -> Iterator[tuple[int, bool]]:
    """Turns of an interleaved comparison: (block, whether it is B's turn), in the order A B, B A, A B ...

    A drift of the machine that is linear in time then cancels over every two blocks.
    """
    for block in range(blocks):
        for turn in (False, True) if block % 2 == 0 else (True, False):
            yield block, turn


@dataclass(frozen=True)
class Search:
    """The search for the highest rate that holds: what is known so far.

    `good` held (0: nothing did yet), `bad` did not (infinite: nothing failed yet).
    """

    good: float
    bad: float

    def next_rate(self, start: float, resolution: float) -> float | None:
        """The rate to try next, or None once the two are within `resolution` (relative) of each other."""
        if self.good == 0 and math.isinf(self.bad):
            return start
        if math.isinf(self.bad):
            return self.good * 1.25
        if self.good == 0:
            return self.bad * 0.75 if self.bad > 1 else None
        return (self.good + self.bad) / 2 if self.bad / self.good - 1 > resolution else None

    def after(self, rate: float, held: bool) -> Search:
        """What is known after trying `rate`."""
        return Search(max(self.good, rate), self.bad) if held else Search(self.good, min(self.bad, rate))


def slope_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares growth of `values` per hour."""
    return float(np.polyfit(np.asarray(seconds) / 3600, np.asarray(values), 1)[0])
