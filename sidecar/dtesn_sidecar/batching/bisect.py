"""Taking a failed batch apart: which group runs next, who is to blame, who stays undecided. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def most_runs(items: int) -> int:
    """2 log2(n) + 2: what one bad item among n takes at most."""
    return math.floor(2.0 * math.log2(max(items, 1)) + 1e-9) + 2


class Bisection(Generic[T]):
    """Halves of a failed batch, largest first: each success frees as many as possible.

    `culprits` failed alone. What is left when the runs are used up is undecided.
    """

    def __init__(self, items: list[T], *, runs: int | None = None) -> None:
        self.runs_left = most_runs(len(items)) if runs is None else runs
        self.runs = 0
        self.culprits: list[T] = []
        self._groups: list[list[T]] = []
        self._split(items)

    def next_group(self, waiting: Callable[[T], bool]) -> list[T] | None:
        """The next group to run, of those still `waiting`; None: nothing left, or no runs left."""
        self._groups = [group for group in ([item for item in group if waiting(item)] for group in self._groups) if group]
        if not self._groups or self.runs >= self.runs_left:
            return None
        index = max(range(len(self._groups)), key=lambda i: len(self._groups[i]))
        self.runs += 1
        return self._groups.pop(index)

    def failed(self, group: list[T]) -> None:
        """The group failed as a whole; alone, its item is the culprit."""
        self._split(group)

    def undecided(self) -> list[T]:
        """Everything not yet run to an end."""
        return [item for group in self._groups for item in group]

    def _split(self, group: list[T]) -> None:
        if len(group) == 1:
            self.culprits += group
        elif group:
            middle = (len(group) + 1) // 2
            self._groups += [group[:middle], group[middle:]]
