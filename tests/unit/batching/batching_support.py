"""Small things that the batching tests share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Hashable, Sequence
from typing import Any

from dtesn_sidecar.batching.item import Item, State
from dtesn_sidecar.batching.protocols import Work

_ids = itertools.count(1)


class NoWaiter:
    def done(self) -> bool:
        return False

    def set_result(self, result: object, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


def item(
    arrival: float = 0.0,
    *,
    priority: int = 1,
    aging: float = 0.5,
    nodes: int = 1,
    shape: Hashable = None,
    deadline: float = 1e9,
    fixed: float = 0.0,
    marginal: float = 0.0,
    direct: bool = False,
) -> Item:
    return Item(
        id=next(_ids),
        payload=None,
        work=Work(nodes=nodes, shape=shape),
        priority=priority,
        arrival=arrival,
        deadline=deadline,
        key=arrival + priority * aging,
        direct=direct,
        fixed=fixed,
        marginal=marginal,
        charge=nodes,
        waiter=NoWaiter(),
        state=State.QUEUED,
    )


class Device:
    """The simulated device: 20 ms and 0.5 ms per item, in virtual time. Remembers the sizes of its batches."""

    def __init__(self, fixed: float = 0.020, marginal: float = 0.0005) -> None:
        self.fixed, self.marginal = fixed, marginal
        self.sizes: list[int] = []

    async def __call__(self, items: list[object]) -> Sequence[object]:
        self.sizes.append(len(items))
        await asyncio.sleep(self.fixed + self.marginal * len(items))
        return [("result of", payload) for payload in items]


async def gathered(manager: Any, items: Any, **named: Any) -> Any:
    """The outcomes of all items, submitted at once."""
    return await asyncio.gather(*(manager.submit(item, **named) for item in items), return_exceptions=True)
