"""What the manager makes of failures: bisection, memory, hung runs, the breakers, a dead loop. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.batching.batching_support import Device, gathered

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import SilentObserver
from dtesn_sidecar.errors import (
    BreakerOpen,
    ComputeFailed,
    InvalidInput,
    OutOfMemory,
    Unavailable,
    WorkerLost,
)

pytestmark = pytest.mark.looptime(start=1000)


async def test_an_output_of_another_length_fails_the_batch() -> None:
    async def process(items: Any) -> Any:
        return items[1:]

    async with DynamicBatchManager(process=process) as manager:
        with pytest.raises(ComputeFailed, match="0 results for 1 items"):
            await manager.submit(1)


async def test_an_exception_in_place_of_a_result_fails_that_item_alone_without_bisection() -> None:
    calls = 0

    async def process(items: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        return [ValueError(f"bad {item}") if item == 3 else item for item in items]

    async with DynamicBatchManager(process=process) as manager:
        results = await gathered(manager, range(6))
        runs = manager.snapshot().items_total
    assert [r for r in results if not isinstance(r, Exception)] == [0, 1, 2, 4, 5]
    assert str(results[3]) == "bad 3"
    assert runs == 6


async def test_a_poisoned_batch_fails_the_poison_alone() -> None:
    async def process(items: Any) -> Any:
        await asyncio.sleep(0.001)
        if 13 in items:
            raise ValueError("poison")
        return items

    events = []

    class Watch(SilentObserver):
        def bisected(self, event: Any) -> None:
            events.append(event)

    async with DynamicBatchManager(process=process, strategy="fixed", observer=Watch()) as manager:
        results = await gathered(manager, range(32))
    assert [n for n, r in enumerate(results) if isinstance(r, Exception)] == [13]
    assert all(event.runs <= 2 * 5 + 2 for event in events)
    assert events


async def test_out_of_memory_is_retried_in_halves_and_a_single_item_gets_503() -> None:
    async def process(items: Any) -> Any:
        await asyncio.sleep(0.001)
        if len(items) > 2 or "huge" in items:
            raise MemoryError
        return items

    async with DynamicBatchManager(process=process, strategy="fixed") as manager:
        results = await gathered(manager, [0, 1, 2, "huge", 4, 5, 6, 7])
        cap = manager.snapshot().byte_cap
    assert isinstance(results.pop(3), OutOfMemory)
    assert results == [0, 1, 2, 4, 5, 6, 7]
    assert cap is not None


async def test_a_hung_run_is_ended_and_liveness_fails_when_it_repeats() -> None:
    async def process(items: Any) -> Any:
        await asyncio.sleep(1e6 if "stuck" in items else 0.001)
        return items

    async with DynamicBatchManager(process=process, strategy="fixed") as manager:
        for _ in range(5):
            await manager.submit(0)
        results = await gathered(manager, ["stuck", *range(7)], timeout=300)
        assert sum(isinstance(r, WorkerLost) for r in results) == 4
        assert manager.snapshot().live
        await gathered(manager, ["stuck", "stuck"], timeout=300)
        assert not manager.snapshot().live
        await manager.submit(0)
        assert manager.snapshot().live


class Switch:
    """A process function that fails as a whole while `broken`, and always in batches of several while `batches_broken`."""

    broken = batches_broken = False

    async def __call__(self, items: Any) -> Any:
        await asyncio.sleep(0.01)
        if self.broken or (self.batches_broken and len(items) > 1):
            raise ConnectionError("down")
        return items


def breaker_config(**more: Any) -> BatchConfiguration:
    return BatchConfiguration(failure_threshold=2, circuit_breaker_timeout=5, strategy="fixed", max_batch_wait_ms=5, **more)


async def test_an_open_breaker_sends_requests_directly_until_a_probe_succeeds() -> None:
    process, seen = Switch(), []

    class Watch(SilentObserver):
        def breaker_changed(self, event: Any) -> None:
            seen.append((event.breaker, event.to))

    async with DynamicBatchManager(breaker_config(), process=process, observer=Watch()) as manager:
        process.broken = True
        for _ in range(2):
            await gathered(manager, [1])
        assert manager.snapshot().breaker == "open"
        process.broken = False
        done = await manager.submit_detailed(1)
        assert (done.direct, done.closed_by) == (True, "breaker")
        await asyncio.sleep(5)
        done = await manager.submit_detailed(1)
        assert (done.direct, done.closed_by) == (False, "probe")
        assert manager.snapshot().breaker == "closed"
    assert seen == [("batch", "open"), ("batch", "half_open"), ("batch", "closed")]


async def test_fallback_beyond_its_bound_gets_503_until_the_probe() -> None:
    process = Switch()
    async with DynamicBatchManager(breaker_config(max_direct_concurrency=1), process=process) as manager:
        process.broken = True
        for _ in range(2):
            await gathered(manager, [1])
        process.broken = False
        results = await gathered(manager, range(3))
    assert [isinstance(r, BreakerOpen) for r in results] == [False, True, True]
    assert all(1 <= r.retry_after <= 6.25 for r in results[1:])


async def test_when_direct_processing_fails_too_requests_get_503_at_once() -> None:
    process = Switch()
    async with DynamicBatchManager(breaker_config(), process=process) as manager:
        process.broken = True
        for _ in range(4):
            await gathered(manager, [1])
        assert manager.snapshot().direct_breaker == "open"
        assert isinstance((await gathered(manager, [1]))[0], BreakerOpen)
        assert isinstance((await gathered(manager, [1], direct=True))[0], BreakerOpen)


async def test_errors_of_the_input_do_not_open_the_breaker() -> None:
    async def process(items: Any) -> Any:
        return [InvalidInput("not good") for _ in items]

    async with DynamicBatchManager(breaker_config(), process=process) as manager:
        for _ in range(10):
            await gathered(manager, [1])
        assert manager.snapshot().breaker == "closed"


async def test_a_dead_loop_leaves_nobody_waiting_and_health_knows() -> None:
    manager = DynamicBatchManager(BatchConfiguration(strategy="fixed", max_batch_wait_ms=10_000), process=Device())
    await manager.start()
    task = asyncio.create_task(manager.submit(1))
    await asyncio.sleep(0.01)
    assert manager._dispatcher is not None
    manager._dispatcher.task.cancel()
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="dead"):
        await task
    with pytest.raises(Unavailable, match="dead"):
        await manager.submit(2)
    assert not manager.snapshot().alive
    await manager.stop()
