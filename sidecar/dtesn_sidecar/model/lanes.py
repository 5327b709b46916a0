"""Which chains of a batch wait for the row of another, so that its last steps are not left to one or two rows. Pure.

A step of one row takes two thirds of the time of one of four: the weights are read either way. Where lengths differ, many steps are like
that, at the end, when all but the longest are done. So a few chains begin later, in the row of one that has ended, and the rows at the end
are more. What these wait is less than what all gain: lanes are taken only where the chains of the batch end earlier on average than
without, and its last one does too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Lanes = list[list[int]]
"""Chains by their index, row by row; those of one row in the order in which they are computed."""

WIDTHS = 4, 6, 8
"""How many rows are filled up to the end of the batch; which is best differs from batch to batch."""

FEW = 4.0
"""A step costs as many rows as it has, or FEW and half of them where that is more (N = 512)."""


def lanes(remaining: Sequence[int], patient: Sequence[bool]) -> Lanes:
    """Chains of so many steps each, of which those that are `patient` may wait: the lanes, by falling number of steps in all."""
    order = sorted(range(len(remaining)), key=lambda i: -remaining[i])
    best = [[i] for i in order]
    if len(order) <= 2 or remaining[order[-1]] + remaining[order[min(max(WIDTHS), len(order)) - 1]] > remaining[order[0]]:
        return best
    end, alone = _times(remaining, best)
    for rows in WIDTHS:
        found = _filled(order, remaining, patient, rows)
        if len(found) < len(order):
            found_end, mean = _times(remaining, found)
            if found_end < end and mean <= alone:
                best, end = found, found_end
    return best


def _filled(order: Sequence[int], remaining: Sequence[int], patient: Sequence[bool], rows: int) -> Lanes:
    """The longest chains lead a lane each; into the first `rows` lanes go the longest others that end no later than the longest of all."""
    longest, left = remaining[order[0]], list(order)
    falling = [-remaining[i] for i in left]
    found: Lanes = []
    while left and len(found) < rows:
        lane, room = [left.pop(0)], longest + falling.pop(0)
        while left:
            at = bisect_left(falling, -room)
            while at < len(left) and not patient[left[at]]:
                at += 1
            if at == len(left):
                break
            lane.append(left.pop(at))
            room += falling.pop(at)
        found.append(lane)
    return sorted(found + [[i] for i in left], key=lambda lane: -sum(remaining[i] for i in lane))


def _times(remaining: Sequence[int], found: Lanes) -> tuple[float, float]:
    """When the last chain ends and when they end on average, by what steps cost."""
    totals, ends = [], []
    for lane in found:
        end = 0
        for i in lane:
            end += remaining[i]
            ends.append(end)
        totals.append(end)
    rows = active(totals, max(totals))
    cost = np.cumsum(np.maximum(rows, FEW + rows / 2))
    return float(cost[-1]), float(cost[np.array(ends) - 1].mean())


def active(lengths: Sequence[int], steps: int) -> NDArray[np.intp]:
    """How many rows of these lengths are still active in each of so many steps."""
    done = np.bincount(np.array(lengths, dtype=np.intp), minlength=steps + 1)
    return (len(lengths) - np.cumsum(done)[:steps]).astype(np.intp)
