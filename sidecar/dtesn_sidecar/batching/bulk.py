"""Many items of one call, submitted fairly: never more than a bounded number of them queued at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dtesn_sidecar.errors import DeadlineExceeded

T = TypeVar("T")


def shares(costs: Sequence[int], batch: int) -> list[int]:
    """An order of indices in which each successive `batch` items cost about the same: dealt out, dearest first."""
    count = len(costs)
    ranked = sorted(range(count), key=lambda index: -costs[index])
    hands = max(1, -(-count // max(1, batch)))
    return [ranked[position] for hand in range(hands) for position in range(hand, count, hands)]


class BulkCall:
    """One call. `width` says how many of its items may be queued at once."""

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._queued = 0
        self._room: asyncio.Future[None] | None = None

    def left_queue(self) -> None:
        """One item of the call is no longer queued."""
        self._queued -= 1
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def run(
        self,
        costs: Sequence[int],
        submit: Callable[[int, float | None], Awaitable[T]],
        *,
        deadline: float | None,
        clock: Callable[[], float],
        spread: bool = True,
        each: Callable[[int, T | Exception], None],
    ) -> None:
        """Submit every index; `each` is told what it ended with, a value or an exception, as it comes.

        `submit(index, seconds left)` must see to it that `left_queue` is called once for each call of it. Without
        `spread` the order is that of the indices.
        """
        tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()

        async def one(index: int, left: float | None) -> None:
            try:
                outcome: T | Exception = await submit(index, left)
            except Exception as error:  # noqa: BLE001 - each item of a call ends with its own outcome
                outcome = error
            each(index, outcome)

        try:
            for index in shares(costs, max(1, self._width() // 2)) if spread else range(len(costs)):
                while self._queued >= self._width():
                    self._room = loop.create_future()
                    await self._room
                left = None if deadline is None else deadline - clock()
                if left is not None and left <= 0.0:
                    each(index, DeadlineExceeded("the call's deadline passed before this item could be queued", retry_after=1.0))
                    continue
                self._queued += 1
                task = loop.create_task(one(index, left))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
