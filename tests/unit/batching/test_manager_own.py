"""What users bring along: strategies, calculators, observers and load trackers, and what the manager makes of those that fail."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.batching.batching_support import Device, gathered

from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.performance import Performance
from dtesn_sidecar.batching.protocols import SilentObserver
from dtesn_sidecar.batching.strategies import Close, Size

pytestmark = pytest.mark.looptime(start=1000)


class Broken:
    name = "broken"

    def size(self, view: Any) -> Any:
        return Size(4, 0.01)

    def close(self, view: Any) -> Any:
        raise ZeroDivisionError("of the strategy")


async def test_a_strategy_that_raises_is_replaced_by_fixed_and_counted(caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    async with DynamicBatchManager(process=Device(), strategy=Broken()) as manager:
        assert await gathered(manager, range(5)) == [("result of", n) for n in range(5)]
        shown = manager.snapshot()
    assert shown.alive
    assert (shown.strategy, shown.policy_failures) == ("fixed", 1)
    assert "ZeroDivisionError" in str(shown.last_policy_failure)


class Pairs:
    name = "pairs"

    def size(self, view: Any) -> Any:
        return Size(2, 0.01)

    def close(self, view: Any) -> Any:
        return Close("pairs")


async def test_a_strategy_of_ones_own_sizes_and_closes() -> None:
    device = Device()
    async with DynamicBatchManager(process=device, strategy=Pairs()) as manager:
        for _ in range(10):
            await gathered(manager, range(8))
            await asyncio.sleep(1)
        assert manager.snapshot().strategy == "pairs"
    assert max(device.sizes[-8:]) == 2


class Counting:
    def __init__(self) -> None:
        self.batches = 0

    def record(self, batch: Any) -> None:
        self.batches += 1

    def baseline(self, work: Any, seconds: Any, now: Any) -> None: ...

    def resize(self, window: Any) -> None: ...

    def figures(self, now: Any) -> Any:
        return Performance(avg_batch_size=float(self.batches))


async def test_a_performance_calculator_of_ones_own_is_asked() -> None:
    async with DynamicBatchManager(process=Device(), performance=Counting()) as manager:
        await manager.submit(1)
        await asyncio.sleep(0.1)
        assert manager.snapshot().avg_batch_size == 1.0


class Failing(SilentObserver):
    def batch_done(self, event: Any) -> None:
        raise RuntimeError("observer")


async def test_an_observer_that_raises_is_logged_once_and_harms_nobody(caplog: Any) -> None:
    async with DynamicBatchManager(process=Device(), observer=Failing()) as manager:
        for n in range(3):
            assert await manager.submit(n) == ("result of", n)
        await asyncio.sleep(0.1)
    assert sum("observer failed" in r.message for r in caplog.records) == 1


def raises() -> float:
    raise OSError("no load")


async def test_a_load_tracker_that_raises_is_no_data(caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    async with DynamicBatchManager(load_tracker=raises, process=Device()) as manager:
        await manager.submit(1)
        shown = manager.snapshot()
    assert shown.load is None
    assert shown.policy_failures > 0


async def test_an_async_load_tracker_is_polled_and_never_waited_for() -> None:
    async def slow() -> Any:
        await asyncio.sleep(3)
        return 0.7

    async with DynamicBatchManager(load_tracker=slow, process=Device()) as manager:
        await manager.submit(1)
        assert manager.snapshot().load is None
        await asyncio.sleep(4)
        assert manager.snapshot().load == 0.7
