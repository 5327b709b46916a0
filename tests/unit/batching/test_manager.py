"""The manager over a plain function and over a runner that fails, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.batching.batching_support import Device

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.budget import SchedulingBudget
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.performance import Performance
from dtesn_sidecar.batching.protocols import SilentObserver, Work
from dtesn_sidecar.batching.strategies import Close, Hold, Size
from dtesn_sidecar.errors import (
    BreakerOpen,
    ComputeFailed,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    OutOfMemory,
    QueueFull,
    RequestTooLarge,
    Unavailable,
    WorkerLost,
)

pytestmark = pytest.mark.looptime(start=1000)


def number(item: object) -> int:
    assert isinstance(item, int)
    return item


async def gathered(manager: Any, items: Any, **named: Any) -> Any:
    return await asyncio.gather(*(manager.submit(item, **named) for item in items), return_exceptions=True)


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
