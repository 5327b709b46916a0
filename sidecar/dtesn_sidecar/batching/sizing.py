"""How large a batch may be and how long a window may stay open, from load and from measured performance.

Pure functions, and one small state that smooths them per 100 ms tick. When a batch is dispatched is decided in
`windows`; what a batch may hold besides a number of items in `budget`.
"""

from __future__ import annotations

import itertools
import math

import msgspec

TICK = 0.1
"""Seconds per smoothing step."""

RATE_TOLERANCE = 0.05
"""The adaptive base is the smallest size whose node rate is within this of the best."""

HEADROOM = 0.85

ROUNDING = 1.0 + 1e-9

MARGINS = ((0.25, 2.5), (0.33, 0.3), (0.75, 0.3), (0.88, 2.5))

SEVERAL_DEVICES = -0.8
"""Simulated with two devices and texts of mixed lengths, from 10 to 95 % of saturation: utilisation is 94 % or more, and p99 is
within a tenth of that with margins as for one device."""


def gain(load: float | None, *, low: float, high: float, factor: float) -> float:
    """g(load): 1 + f (low - load) / low below low, 1 between, 1 - f (load - high) / (1 - high) above; no data: 1."""
    if load is None:
        return 1.0
    load = min(max(load, 0.0), 1.0)
    if load < low:
        return 1.0 + factor * (low - load) / low
    if load > high:
        return 1.0 - factor * (load - high) / (1.0 - high)
    return 1.0


def window(load: float | None, *, low: float, high: float, shortest: float, longest: float) -> float:
    """The window: linear through (0, longest), (low, sqrt(shortest longest)), (high, the same), (1, shortest)."""
    middle = math.sqrt(shortest * longest)
    if load is None:
        return middle
    load = min(max(load, 0.0), 1.0)
    if load < low:
        return middle + (longest - middle) * (low - load) / low
    if load > high:
        return middle + (shortest - middle) * (load - high) / (1.0 - high)
    return middle


def adaptive_base(
    *, fixed: float, marginal: float, smallest: int, largest: int, factor: float, deadline: float | None, longest_run: float
) -> int | None:
    """The smallest size within 5 % of the best rate that deadlines allow, at most largest / (1 + f); None: not known.

    `fixed` and `marginal` are the seconds that a mean batch takes once and per item. A request just missed waits
    for one whole batch and then takes another, so two must fit into 0.9 of the `deadline` (seconds from arrival),
    and one into `longest_run`. Where not even two batches of one fit, one must; where that does not fit either, no size
    meets the deadline and it says nothing.
    """
    alone = fixed + marginal
    if alone <= 0.0:
        return None
    shares = (share * deadline for share in (0.45, 0.9)) if deadline is not None else ()
    allowed = min(longest_run, next((seconds for seconds in shares if alone <= seconds), longest_run))
    best = float(largest) if marginal <= 0.0 else min(float(largest), (allowed - fixed) / marginal)
    best = max(best, float(smallest))
    rate = (1.0 - RATE_TOLERANCE) * best / (fixed + marginal * best)
    headroom = 1.0 - rate * marginal
    size = rate * fixed / headroom if headroom > 0.0 else best
    return max(smallest, min(math.ceil(size - 1e-9), math.floor(best), math.floor(largest / (1.0 + factor))))


def longest_batch(longest: float, *, fixed: float, marginal: float, split_seen: bool) -> float:
    """Seconds that a batch of such items may take: `longest`, but no bound that small batches keep no better than large ones.

    No batch is shorter than `fixed`, what its levels take: members may add as much again. Where one item alone takes longer than
    `longest`, so does every batch: then twice as long as it. Batches of one do not tell levels from nodes; until others have
    (`split_seen`), beyond `longest` are two at most, which at worst take as long as one after the other.
    """
    alone = fixed + marginal
    if not split_seen:
        return max(longest, (alone + marginal) * ROUNDING)
    return 2.0 * alone if alone > longest else max(longest, 2.0 * fixed)


def largest_within(seconds: float, *, fixed: float, marginal: float, largest: int) -> int:
    """The most mean items, at least one and at most `largest`, that one batch computes in `seconds`."""
    if fixed + marginal * largest <= seconds:
        return largest
    return math.floor(min(max((seconds - fixed) / marginal, 1.0), largest)) if marginal > 0.0 else 1


def saturation(rate: float, *, fixed: float, marginal: float, largest: int) -> float:
    """Share of what one device could sustain with the largest batches that `rate` (arrivals/s for it) asks for."""
    return rate * (fixed + marginal * largest) / largest


def stable_size(rate: float, *, fixed: float, marginal: float, largest: int) -> int:
    """The smallest size that sustains `rate` with HEADROOM to spare: shrinking below it would end in collapse."""
    wanted = rate / HEADROOM
    slope = 1.0 - wanted * marginal
    return largest if slope <= 0.0 else min(largest, math.ceil(wanted * fixed / slope))


def places_margin(saturated: float, devices: int) -> float:
    """Standard deviations by which the forecast of places exceeds its mean, by `saturation` and the number of devices.

    Places cap a batch: too many lower the utilisation, too few leave requests behind for one more batch. One device: between,
    batches are large enough for the mean to do; at low load utilisation is not scarce, and near saturation no place may be
    missing. Of several the next is free soon: who is left behind waits for a part of a batch alone, and fewer places do.
    """
    if devices > 1:
        return SEVERAL_DEVICES
    for (low, low_margin), (high, high_margin) in itertools.pairwise(MARGINS):
        if saturated <= high:
            share = max(0.0, saturated - low) / (high - low)
            return low_margin + (high_margin - low_margin) * share
    return MARGINS[-1][1]


def low_quantile(current: float | None, sample: float) -> float:
    """A running 10 % quantile: rises 1 % where a sample lies above, falls 9 % where it lies below."""
    if current is None:
        return sample
    return min(current * 1.01, sample) if sample > current else max(current * 0.91, sample)


class SizeView(msgspec.Struct, frozen=True):
    """What sizing looks at. `base` is the adaptive base where it is on and known, else the target size."""

    load: float | None
    base: int
    smallest: int
    largest: int
    target: int
    low: float
    high: float
    factor: float
    shortest_window: float
    longest_window: float
    predicted_wait: float
    stable: int


class Size(msgspec.Struct, frozen=True):
    """What sizing aims at: items per batch (not rounded) and seconds of window.

    `floor`: the items below which the limit is not even while smoothing. `by_forecast`: a batch has as many places as were
    forecast when the last was dispatched; otherwise as many as the limit, for strategies that wait until it is full.
    """

    items: float
    window: float
    floor: float = 1.0
    by_forecast: bool = False


def load_aware_size(view: SizeView) -> Size:
    """clamp(base g(load)), but never below what sustains the arrivals.

    With a backlog beyond the longest window not below base, and free to grow as at no load.
    """
    window_now = window(view.load, low=view.low, high=view.high, shortest=view.shortest_window, longest=view.longest_window)
    backlog = view.predicted_wait > view.longest_window
    factor = 1.0 + view.factor if backlog else gain(view.load, low=view.low, high=view.high, factor=view.factor)
    items = min(max(view.base * factor, view.smallest), view.largest)
    return Size(items, window_now, floor=max(view.stable, items if backlog else view.smallest), by_forecast=True)


def fixed_size(view: SizeView) -> Size:
    """The target size and the longest window, whatever the load."""
    return Size(view.target, view.longest_window, floor=view.target)


class Smoothed:
    """Size and window moved towards their aim by `rate` per tick."""

    __slots__ = ("_floor", "_ticked", "by_forecast", "items", "window")

    def __init__(self, aim: Size, now: float) -> None:
        self.items = aim.items
        self.window = aim.window
        self.by_forecast = aim.by_forecast
        self._floor = aim.floor
        self._ticked = now

    def advance(self, aim: Size, rate: float, now: float) -> None:
        """Take the ticks that have passed since the last call, all towards `aim`; its floor holds at once.

        ValueError where `aim` holds a number that is not finite.
        """
        if not math.isfinite(aim.items + aim.window + aim.floor):
            raise ValueError(f"not a size: {aim}")
        ticks = math.floor((now - self._ticked) / TICK + 1e-9)
        if ticks > 0:
            self._ticked += ticks * TICK
            kept = (1.0 - rate) ** ticks
            self.items = aim.items + (self.items - aim.items) * kept
            self.window = aim.window + (self.window - aim.window) * kept
        self._floor, self.by_forecast = aim.floor, aim.by_forecast

    def limit(self, smallest: int, largest: int) -> int:
        """Items per batch now in force."""
        return min(max(round(max(self.items, self._floor)), smallest), largest)
