"""The strategies by name: how large the next batch may be, and whether a free device waits for more.

A strategy of one's own implements `BatchStrategy` and is passed to the manager. It is two pure decisions::

    class Pairs:
        name = "pairs"

        def size(self, view: SizeView) -> Size:
            return Size(items=2, window=0.01)

        def close(self, view: WindowView) -> Decision:
            until = view.opened + view.window
            return Hold(until, items=2) if view.now < until else Close("window")

The manager clamps what comes back to the configured bounds, asks `always_closed` first, and falls back to `fixed` when
a strategy raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from .sizing import Size, SizeView, fixed_size, load_aware_size
from .windows import Close, Decision, Hold, WindowView, hold_for_arrivals, hold_for_returning, hold_for_size

__all__ = ["STRATEGIES", "BatchStrategy", "Close", "Decision", "Hold", "Size", "SizeView", "WindowView", "make_strategy"]


class BatchStrategy(Protocol):
    """Two decisions, both pure: they see frozen views that carry `now`, and return a value."""

    @property
    def name(self) -> str:
        """What snapshots and metrics call it."""

    def size(self, view: SizeView) -> Size:
        """Items per batch and seconds of window to aim at; the manager smooths both per tick."""

    def close(self, view: WindowView) -> Decision:
        """With a device free and something in hand: dispatch now, or hold."""


class Fixed:
    """The target size and the longest window."""

    name = "fixed"

    def size(self, view: SizeView) -> Size:
        """The target."""
        return fixed_size(view)

    def close(self, view: WindowView) -> Decision:
        """Wait for every place or for the window."""
        return hold_for_size(view) or Close("window")


class JustInTime:
    """Sized by load; a free device takes what is there, once clients that were just answered had time to return."""

    name = "just_in_time"

    def size(self, view: SizeView) -> Size:
        """By load and backlog."""
        return load_aware_size(view)

    def close(self, view: WindowView) -> Decision:
        """Hold for the returning alone."""
        return hold_for_returning(view) or Close("idle")


class LoadAware:
    """Sized by load; held longer, up to the window, only while more arrive during the compute than are in hand."""

    name = "load_aware"

    def size(self, view: SizeView) -> Size:
        """By load and backlog."""
        return load_aware_size(view)

    def close(self, view: WindowView) -> Decision:
        """Hold for the returning, then for arrivals."""
        return hold_for_returning(view) or hold_for_arrivals(view) or Close("idle")


STRATEGIES: Mapping[str, Callable[[], BatchStrategy]] = {"fixed": Fixed, "just_in_time": JustInTime, "load_aware": LoadAware}
"""Strategies by the name in `strategy`."""


def make_strategy(strategy: str | BatchStrategy) -> BatchStrategy:
    """The strategy of that name, or the object itself. ValueError for an unknown name."""
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is {strategy!r}; expected one of {', '.join(sorted(STRATEGIES))} or a BatchStrategy")
        return STRATEGIES[strategy]()
    return strategy
