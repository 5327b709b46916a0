"""What a load provider yields, and how readings combine: values and pure functions.

Who polls, and when, is `tracker.py`; where the figures come from is each provider's module.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured load: `value` in [0, 1], taken `at` that many seconds of the tracker's (monotonic) clock."""

    value: float
    at: float


@dataclass(frozen=True, slots=True)
class NoData:
    """There is no measurement, and why. Never the same as a load of 0."""

    reason: str


Answer = float | Reading | NoData | None


class LoadProvider(Protocol):
    """A plain or async function that says how loaded something is.

    Answers a number in [0, 1], a `Reading` (where the measurement has a time of its own), a `NoData` with its
    reason, or None for no data. An exception is no data, with its text as the reason. A plain function runs in a
    thread, so it may block; an async one runs on the event loop.
    """

    def __call__(self) -> Answer | Awaitable[Answer]:
        """Measure once."""


@dataclass(frozen=True, slots=True)
class LoadSource:
    """A provider with what the tracker needs to know about it.

    `weight` >= 0 (0: off, never polled) in the weighted mean; `saturating`: a load that alone can be the limit, so
    that it counts in full when it is above the mean; `interval` seconds between polls; a reading older than
    `stale_after` seconds is no data; after a failure the last reading is held until it is `hold` seconds old.
    `settings` is what the source was made from: a source configured anew with equal settings keeps its reading.
    """

    name: str
    provider: LoadProvider
    weight: float = 1.0
    interval: float = 1.0
    saturating: bool = False
    stale_after: float = 3.0
    hold: float = 0.0
    settings: object = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight of load provider {self.name!r} is {self.weight!r}, must be a finite number >= 0")
        for field, value in (("interval", self.interval), ("stale_after", self.stale_after)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field} of load provider {self.name!r} is {value!r}, must be a finite number of seconds > 0")
        if not (math.isfinite(self.hold) and self.hold >= 0):
            raise ValueError(f"hold of load provider {self.name!r} is {self.hold!r}, must be a finite number of seconds >= 0")


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source as it counts now: its `result`, and the age in seconds of its last reading (None: never read)."""

    name: str
    weight: float
    saturating: bool
    result: Reading | NoData
    age: float | None


def checked(answer: object, now: float) -> Reading | NoData:
    """What a provider's answer is worth: a reading only if it is a number in [0, 1]."""
    match answer:
        case None:
            return NoData("the provider has no data")
        case NoData():
            return answer
        case Reading():
            value, at = answer.value, answer.at
        case Real():
            value, at = float(answer), now
        case _:
            return NoData(f"the provider answered {type(answer).__name__}, not a number in [0, 1]")
    if not 0.0 <= value <= 1.0:  # also false for NaN
        return NoData(f"{value!r} is outside [0, 1]")
    return Reading(float(value), at)


def in_force(source: LoadSource, last: Reading | None, failure: NoData | None, now: float) -> Reading | NoData:
    """The reading that counts now: the last one while it is fresh, or held over a failure; else no data, with the reason."""
    if last is None:
        return failure or NoData("not polled yet")
    age = now - last.at
    if failure is not None:
        return last if age <= source.hold else failure
    if age > source.stale_after:
        return NoData(f"stale: the last reading is {age:.1f} s old, the bound is {source.stale_after:g} s")
    return last


def combined(states: Iterable[SourceState]) -> float | None:
    """Weighted mean of the readings, or the highest saturating one where that is higher. None: no data at all."""
    total = weights = ceiling = 0.0
    for state in states:
        if isinstance(state.result, Reading) and state.weight > 0:
            total += state.weight * state.result.value
            weights += state.weight
            if state.saturating:
                ceiling = max(ceiling, state.result.value)
    return max(total / weights, ceiling) if weights > 0 else None
