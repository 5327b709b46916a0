"""How sums over many nodes stay exact: few are added in the model's own precision, the rest in float64.

A running sum in float32 drifts with its length (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

SPAN_STEPS = 16
"""Steps added up in the model's precision."""

SPAN_ROWS = 64
"""Rows of one step of trees added up in the model's precision."""


def spans(start: int, stop: int, most: int, cuts: Iterable[int] = ()) -> Iterator[tuple[int, int]]:
    """The range from `start` to `stop` in pieces of at most `most`, which end at each of the `cuts` (rising)."""
    for end in (*(cut for cut in cuts if start < cut < stop), stop):
        for first in range(start, end, most):
            yield first, min(first + most, end)
        start = end
