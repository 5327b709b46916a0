"""What one batch may hold: items, nodes, predicted seconds, bytes, and deadlines. Pure.

Which items are offered, and in what order, is the queue's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import BatchConfiguration

from .protocols import Work


@dataclass(frozen=True, slots=True)
class SchedulingBudget:
    """The node budget and the sequence limit of one batch, as LLM engines have it.

    Overrides `max_batch_nodes` (`token_budget`) and `max_batch_size` (`max_num_seqs`). Raises ValueError outside of their bounds.
    """

    token_budget: int
    max_num_seqs: int

    def __post_init__(self) -> None:
        for name, field in (("token_budget", "max_batch_nodes"), ("max_num_seqs", "max_batch_size")):
            value = getattr(self, name)
            try:
                BatchConfiguration(**{"min_batch_size": 1, "target_batch_size": 1, field: value})
            except SpecInvalid as error:
                raise ValueError(f"{name} is {value!r}; expected {error.problems[0].expected}") from None


@dataclass(slots=True)
class Filling:
    """One batch while it fills. The first item is always taken: what is too large for any batch runs alone."""

    items_max: int
    charge_max: int
    seconds_max: float
    now: float
    items: int = 0
    charge: int = 0
    fixed: float = 0.0
    marginal: float = 0.0
    latest_end: float = float("inf")
    closed_by: str = ""

    def fits(self, charge: int, fixed: float, marginal: float) -> bool:
        """Whether one more of this size keeps the node and seconds bounds."""
        if self.items == 0:
            return True
        return self.charge + charge <= self.charge_max and max(self.fixed, fixed) + self.marginal + marginal <= self.seconds_max

    def keeps_deadlines(self, deadline: float, fixed: float, marginal: float) -> bool:
        """Whether with one more every member, this one too, still ends within its deadline as predicted."""
        return self.now + max(self.fixed, fixed) + self.marginal + marginal <= min(self.latest_end, deadline)

    def add(self, charge: int, fixed: float, marginal: float, deadline: float) -> None:
        """Take one more."""
        self.items += 1
        self.charge += charge
        self.fixed = max(self.fixed, fixed)
        self.marginal += marginal
        self.latest_end = min(self.latest_end, deadline)

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self.items >= self.items_max

    @property
    def seconds(self) -> float:
        """Predicted compute so far."""
        return self.fixed + self.marginal


def prefix_within(works: Sequence[Work], bytes_of: Callable[[Sequence[Work]], int], cap: int | None) -> int:
    """How many of `works`, from the first on, take at most `cap` bytes together; at least 1. O(log n) calls."""
    if cap is None or len(works) <= 1 or bytes_of(works) <= cap:
        return len(works)
    low, high = 1, len(works) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_of(works[:middle]) <= cap:
            low = middle
        else:
            high = middle - 1
    return low
