"""What the sidecars of a resource say of themselves, put together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from dtesn_api.status import Observed

WRITE_EVERY: Final = 300.0  # seconds; a change of band is written at once
LOAD_MOVES: Final = 0.15
MOVES: Final = 0.1
_LOAD_BANDS: Final = (0.25, 0.5, 0.75, 0.9)
_PENDING_BANDS: Final = (1, 10, 100, 1000)
_RATE_BANDS: Final = (0.1, 1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a resource's ready pods: how many were asked, and the bodies of batch_metrics of those that answered."""

    asked: int
    bodies: tuple[Mapping[str, Any], ...]
    at: float

    @property
    def fresh(self) -> bool:
        """Whether some source of load has data in some pod."""
        return any(_load(body) is not None for body in self.bodies)


def observed_of(bodies: Sequence[Mapping[str, Any]]) -> Observed | None:
    """Load and batch size as means over the pods, rate and pending as sums; two digits."""
    if not bodies:
        return None
    figures = [body.get("metrics") or {} for body in bodies]
    pending = [body["pending_requests"] for body in bodies if isinstance(body.get("pending_requests"), int)]
    return Observed(
        load=_two_digits([load for body in bodies if (load := _load(body)) is not None], fmean),
        batch_size=_two_digits(_numbers(bodies, "current_batch_size"), fmean),
        requests_per_second=_two_digits(_numbers(figures, "requests_per_second"), sum),
        throughput_improvement=_two_digits(_numbers(figures, "throughput_improvement"), fmean),
        pending=int(float(f"{sum(pending):.2g}")) if pending else None,
    )


def kept(before: Observed | None, fresh: Observed | None, age: float) -> Observed | None:
    """Which of the two is to be in the status. `age`: seconds since it was written last.

    What has hardly moved stays as it is, however old, so that a fleet at rest writes nothing.
    """
    if before is None or fresh is None:
        return fresh
    return fresh if moved(before, fresh) and (age >= WRITE_EVERY or bands(before) != bands(fresh)) else before


def moved(before: Observed, fresh: Observed) -> bool:
    """Whether a figure is so different that a person would care: a load by 0.15, another by more than a tenth of itself."""
    pairs = (
        (before.batch_size, fresh.batch_size),
        (before.requests_per_second, fresh.requests_per_second),
        (before.throughput_improvement, fresh.throughput_improvement),
        (before.pending, fresh.pending),
    )
    return _apart(before.load, fresh.load, LOAD_MOVES) or any(
        _apart(old, new, MOVES * max(abs(old or 0), abs(new or 0))) for old, new in pairs
    )


def _apart(old: float | None, new: float | None, least: float) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(old - new) > least


def bands(observed: Observed | None) -> tuple[int | None, ...]:
    """How the figures lie, roughly: a change of these is worth a write."""
    if observed is None:
        return ()
    return (
        _band(observed.load, _LOAD_BANDS),
        _band(observed.pending, _PENDING_BANDS),
        _band(observed.requests_per_second, _RATE_BANDS),
    )


def _band(value: float | None, edges: Sequence[float]) -> int | None:
    return None if value is None else sum(value >= edge for edge in edges)


def _load(body: Mapping[str, Any]) -> float | None:
    """The mean of a pod's sources by their weights; None where none has data."""
    sources = (body.get("server_load") or {}).values()
    readings = [(one["value"], one.get("weight", 1.0)) for one in sources if isinstance(one, Mapping) and one.get("value") is not None]
    weights = sum(weight for _, weight in readings)
    return sum(value * weight for value, weight in readings) / weights if weights > 0 else None


def _numbers(bodies: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(body[name]) for body in bodies if isinstance(body.get(name), (int, float))]


def _two_digits(values: Sequence[float], join: Any) -> float | None:
    return float(f"{join(values):.2g}") if values else None
