"""The manager over a plain function: its life, its requests, its settings, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.batching.batching_support import Device, gathered

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.budget import SchedulingBudget
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.batching.strategies import Close, Hold, Size
from dtesn_sidecar.errors import (
    DeadlineExceeded,
    Draining,
    InvalidInput,
    QueueFull,
    RequestTooLarge,
)

pytestmark = pytest.mark.looptime(start=1000)


def number(item: object) -> int:
    assert isinstance(item, int)
    return item


async def test_start_without_a_process_function_raises_and_it_may_be_set_until_then() -> None:
    manager = DynamicBatchManager()
    with pytest.raises(RuntimeError, match="process"):
        await manager.start()
    manager.process = Device()
    async with manager:
        assert await manager.submit(1) == ("result of", 1)


async def test_submit_outside_start_and_stop_is_refused() -> None:
    manager = DynamicBatchManager(process=Device())
    with pytest.raises(Draining):
        await manager.submit(1)
    async with manager:
        pass
    with pytest.raises(Draining):
        await manager.submit(1)


async def test_the_deadline_answers_even_while_the_batch_runs() -> None:
    async with DynamicBatchManager(process=Device(fixed=5.0)) as manager:
        started = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded) as computing:
            await manager.submit(1, timeout=0.5)
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.5, abs=1e-3)
        with pytest.raises(DeadlineExceeded) as queued:
            await manager.submit(2, timeout=0.25)
    for error, spent in ((computing.value, (0.0, 0.5, 1, "full")), (queued.value, (0.25, 0.0, 0, ""))):
        assert error.spent is not None
        assert error.spent[:2] == pytest.approx(spent[:2], abs=2e-3)
        assert error.spent[2:] == spent[2:]


async def test_a_cancelled_caller_withdraws_its_item_from_the_queue() -> None:
    device = Device()
    async with DynamicBatchManager(process=device) as manager:
        first = asyncio.create_task(manager.submit(0))
        await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(manager.submit(n)) for n in range(1, 5)]
        await asyncio.sleep(0.001)
        waiting[0].cancel()
        await asyncio.sleep(0.001)
        assert manager.snapshot().pending == 3
        await asyncio.gather(first, *waiting[1:])
    assert sum(device.sizes) == 4


@pytest.mark.parametrize("seconds", [0, -1, 301, float("nan"), True, "1"])
async def test_a_timeout_out_of_range_names_field_value_and_range(seconds: Any) -> None:
    async with DynamicBatchManager(process=Device()) as manager:
        with pytest.raises(InvalidInput) as caught:
            await manager.submit(1, timeout=seconds)
    assert caught.value.field == "timeout"
    assert "300" in str(caught.value)


@pytest.mark.parametrize("priority", [-1, 3, True, 1.0])
async def test_a_priority_out_of_range_is_invalid(priority: Any) -> None:
    async with DynamicBatchManager(process=Device()) as manager:
        with pytest.raises(InvalidInput, match="priority"):
            await manager.submit(1, priority=priority)


async def test_a_full_queue_refuses_and_a_higher_priority_displaces_the_newest_lowest() -> None:
    config = BatchConfiguration(max_queue_size=4)
    async with DynamicBatchManager(config, process=Device(fixed=0.5)) as manager:
        running = asyncio.create_task(manager.submit("running"))
        await asyncio.sleep(0.01)
        queued = [asyncio.create_task(manager.submit(n, priority=1 + n % 2)) for n in range(4)]
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull) as caught:
            await manager.submit("too many", priority=2)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        urgent = asyncio.create_task(manager.submit("urgent", priority=0))
        results = await asyncio.gather(running, *queued, urgent, return_exceptions=True)
    assert [n for n, r in enumerate(results) if isinstance(r, QueueFull)] == [4]


async def test_a_request_beyond_max_request_seconds_is_refused_with_both_figures() -> None:
    async def process(items: Any) -> Any:
        await asyncio.sleep(0.1 * sum(items))
        return items

    manager = DynamicBatchManager(process=process, cost=lambda n: Work(nodes=number(n), levels=number(n)))
    async with manager:
        for n in (1, 2, 3):
            await manager.submit(n)
        with pytest.raises(RequestTooLarge, match=r"100\.\d s; at most 30 s") as refused:
            await manager.submit(1000)
    error = refused.value
    assert (error.field, error.value, error.expected) == ("item", "100.0 s of compute", "at most 30 s (max_request_seconds)")


async def test_one_run_that_stalled_refuses_nobody_for_good() -> None:
    stall = 6.0

    async def process(items: Any) -> Any:
        nonlocal stall
        await asyncio.sleep(stall + 0.1 * sum(items))
        stall = 0.0
        return items

    async with DynamicBatchManager(process=process, cost=lambda n: Work(nodes=number(n), levels=number(n))) as manager:
        await manager.submit(1)
        assert await manager.submit(100) == 100, "it takes 10 s, though one sample says 610"


async def test_a_request_of_more_nodes_than_the_queue_takes_is_refused_with_both_figures() -> None:
    manager = DynamicBatchManager(BatchConfiguration(max_queue_nodes=65_536), process=Device(), cost=lambda n: Work(nodes=number(n)))
    async with manager:
        with pytest.raises(RequestTooLarge) as refused:
            await manager.submit(65_537)
    error = refused.value
    assert (error.field, error.value, error.expected) == ("item", "65537 nodes", "at most 65536 nodes (max_queue_nodes)")


async def test_direct_requests_run_alone_and_wait_in_the_same_queue() -> None:
    device = Device()
    async with DynamicBatchManager(process=device) as manager:
        done = await asyncio.gather(*(manager.submit_detailed(n, direct=True) for n in range(4)))
    assert device.sizes == [1, 1, 1, 1]
    assert all(d.direct and d.batch_items == 1 and d.closed_by == "direct" for d in done)


async def test_drain_answers_everything_accepted_and_refuses_the_rest() -> None:
    async with DynamicBatchManager(process=Device()) as manager:
        tasks = [asyncio.create_task(manager.submit(n)) for n in range(100)]
        await asyncio.sleep(0.001)
        draining = asyncio.create_task(manager.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await manager.submit("late")
        await draining
        assert all(task.done() for task in tasks)
        assert [task.result() for task in tasks] == [("result of", n) for n in range(100)]


async def test_stop_without_draining_fails_what_is_left() -> None:
    manager = DynamicBatchManager(process=Device(fixed=50))
    await manager.start()
    tasks = [asyncio.create_task(manager.submit(n)) for n in range(10)]
    await asyncio.sleep(0.1)
    await manager.stop(drain=False)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, Draining) for r in results)


async def test_drain_closes_an_open_window_at_once() -> None:
    config = BatchConfiguration(strategy="fixed", max_batch_wait_ms=10_000)
    manager = DynamicBatchManager(config, process=Device())
    await manager.start()
    task = asyncio.create_task(manager.submit(1))
    await asyncio.sleep(0.1)
    assert not task.done()
    started = asyncio.get_running_loop().time()
    await manager.stop()
    assert asyncio.get_running_loop().time() - started < 0.1
    assert await task == ("result of", 1)


async def test_a_budget_overrides_nodes_and_items() -> None:
    device = Device()
    budget = SchedulingBudget(token_budget=10, max_num_seqs=3)
    async with DynamicBatchManager(process=device, budget=budget, cost=lambda n: 4, strategy="fixed") as manager:
        await gathered(manager, range(12))
    assert max(device.sizes) == 2  # three would be 12 nodes


async def test_reconfigure_takes_effect_on_the_next_batch_and_loses_nothing() -> None:
    device = Device()
    async with DynamicBatchManager(BatchConfiguration(strategy="fixed"), process=device) as manager:
        tasks = [asyncio.create_task(manager.submit(n)) for n in range(20)]
        await asyncio.sleep(0.001)
        manager.reconfigure(BatchConfiguration(strategy="fixed", max_batch_size=2, target_batch_size=2))
        assert await asyncio.gather(*tasks) == [("result of", n) for n in range(20)]
    assert max(device.sizes[1:]) <= 2


async def test_a_bulk_call_queues_at_most_twice_the_limit_and_keeps_its_order() -> None:
    deepest = 0

    async def process(items: Any) -> Any:
        nonlocal deepest
        deepest = max(deepest, manager.snapshot().pending)
        await asyncio.sleep(0.01)
        return [ValueError("odd one") if item == 77 else item for item in items]

    manager = DynamicBatchManager(BatchConfiguration(strategy="fixed"), process=process, cost=lambda n: 1 + number(n) % 9)
    async with manager:
        results = await manager.submit_many(list(range(200)))
    assert isinstance(results.pop(77), ValueError)
    assert results == [n for n in range(200) if n != 77]
    assert deepest <= 16


async def test_a_bulk_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async with DynamicBatchManager(process=Device()) as manager:
        task = asyncio.create_task(manager.submit_many(list(range(500))))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        shown = manager.snapshot()
    assert (shown.pending, shown.active) == (0, 0)


async def test_an_idle_device_measures_the_baseline_and_improvement_is_none_before() -> None:
    device = Device()
    manager = DynamicBatchManager(process=device, probe=lambda: ("probe", Work()))
    async with manager:
        assert manager.snapshot().throughput_improvement is None
        await asyncio.sleep(60)
        shown = manager.snapshot()
        assert shown.baseline_samples >= 3
        assert sum(0.0205 for _ in device.sizes) <= 0.01 * 60 + 0.3
        await gathered(manager, range(30))
        await asyncio.sleep(0.1)
        assert (manager.snapshot().throughput_improvement or 0) > 100
        assert manager.snapshot().requests_processed == 30


async def test_different_shapes_never_share_a_batch() -> None:
    mixed = []

    async def process(items: Any) -> Any:
        mixed.append(len({item % 3 for item in items}))
        await asyncio.sleep(0.01)
        return items

    async with DynamicBatchManager(process=process, cost=lambda n: Work(shape=number(n) % 3)) as manager:
        assert await gathered(manager, range(60)) == list(range(60))
    assert set(mixed) == {1}


async def test_stopping_is_not_undone_by_cancelling_the_one_who_stops() -> None:
    manager = DynamicBatchManager(process=Device(fixed=50))
    await manager.start()
    task = asyncio.create_task(manager.submit(1))
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(manager.stop())
    await asyncio.sleep(0.01)
    stopping.cancel()
    results = await asyncio.gather(stopping, task, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], Draining)
    assert not manager.snapshot().running


class Looks:
    """Holds every batch for 5 ms, and counts how often it was asked."""

    name = "looks"

    def __init__(self) -> None:
        self.asked = 0

    def size(self, view: Any) -> Any:
        return Size(8, 0.005)

    def close(self, view: Any) -> Any:
        self.asked += 1
        return Hold(view.opened + 0.005, 9) if view.now < view.opened + 0.005 else Close("window")


async def test_a_timer_that_is_early_by_its_resolution_is_on_time() -> None:
    loop = asyncio.get_running_loop()
    strategy = Looks()
    async with DynamicBatchManager(process=Device(), strategy=strategy, clock=lambda: 0.9 * loop.time()) as manager:
        await manager.submit(1)
    assert strategy.asked == 2
