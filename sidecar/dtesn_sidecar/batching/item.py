"""One accepted request as the queue and the loop see it. No decisions here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from .protocols import Caller, Work

PRIORITIES = 3
"""Priorities run from 0 (highest) to 2."""


class State(IntEnum):
    """Where an item is. It only ever moves forward."""

    QUEUED = 0
    COMPUTING = 1
    LEFT = 2


class Waiter(Protocol):
    """The caller's side of an item; an `asyncio.Future` is one."""

    def done(self) -> bool:
        """True once the outcome is known or the caller has gone."""

    def set_result(self, result: Any, /) -> None:
        """Hand over the value."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Hand over the failure."""


class Bulk(Protocol):
    """The call that an item is part of, when it is one of many."""

    def left_queue(self) -> None:
        """One item of the call is no longer queued."""


@dataclass(slots=True, eq=False)
class Item:
    """One accepted request.

    `key` orders the queue: arrival + priority * aging, fixed at arrival. `fixed` and `marginal` are the predicted
    seconds of its levels and of its nodes (0: not known). Times are seconds on the manager's clock.
    """

    id: int
    payload: object
    work: Work
    priority: int
    arrival: float
    deadline: float
    key: float
    direct: bool
    fixed: float
    marginal: float
    charge: int
    waiter: Waiter
    bulk: Bulk | None = None
    state: State = State.QUEUED
    dispatched: float = 0.0
    batch_items: int = 0
    closed_by: str = ""
    ran_direct: bool = False
    predicted_wait: float | None = None
    caller: Caller | None = None
    batch: int = 0
    predicted_finish: float | None = None

    def __lt__(self, other: Item) -> bool:
        """Queue order: key, then the order of acceptance."""
        return self.key < other.key or (self.key == other.key and self.id < other.id)
