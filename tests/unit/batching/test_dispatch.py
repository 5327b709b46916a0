"""Direct runs beside batches, holds that must end early, several workers, and policies that raise: through the manager."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest
from tests.unit.batching.batching_support import Device
from tests.unit.batching.wiring_support import Ask, Runner, Seen, ask, asking, managed, teach, turn

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.performance import Performance
from dtesn_sidecar.batching.protocols import RunReport, Work
from dtesn_sidecar.batching.strategies import Close, Hold, Size
from dtesn_sidecar.errors import ComputeFailed, DeadlineExceeded, QueueFull, WorkerLost

pytestmark = pytest.mark.looptime(start=1000)


# -- direct runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [0.1, 0.5])
async def test_at_twice_the_load_direct_requests_are_refused_early_and_the_rest_is_in_time(within: float) -> None:
    runner, rng = Runner(fixed=0.0045), random.Random(5)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=10)
        outcomes = []
        for _ in range(1600):
            await asyncio.sleep(rng.expovariate(2 / 0.0045))
            outcomes.append(asking(manager, Ask(), direct=True, timeout=within))
        values = [(await outcome).value for outcome in outcomes]
    late = sum(isinstance(value, DeadlineExceeded) for value in values)
    in_time = sum(not isinstance(value, Exception) for value in values)
    assert in_time > 0.9 * 800
    assert late < 0.02 * 1600
    assert in_time + late + sum(isinstance(value, QueueFull) for value in values) == 1600


async def test_a_batched_request_behind_direct_ones_expects_to_wait_for_each_of_them() -> None:
    runner = Runner(fixed=1.0)
    async with managed(runner) as manager:
        await teach(manager, runner, rounds=3)
        waiting = [asking(manager, Ask(), direct=True, timeout=100) for _ in range(6)]
        await turn()
        refused = await ask(manager, Ask(), timeout=6.0)
        assert isinstance(refused.value, QueueFull)
        assert (await ask(manager, Ask(), timeout=9.0)).value == ("result of", "any")
        await asyncio.gather(*waiting)


async def test_a_direct_request_that_can_no_longer_finish_is_dropped_at_dispatch_and_never_computed() -> None:
    seen, runner = Seen(), Runner(fixed=1.0)
    async with managed(runner, seen) as manager:
        await teach(manager, runner, rounds=3)
        running = asking(manager, Ask("slower than predicted", seconds=2.0), direct=True, timeout=100)
        await turn()
        hopeless = asking(manager, Ask("hopeless"), direct=True, timeout=2.5)
        after = asking(manager, Ask("after"), direct=True, timeout=100)
        assert isinstance((await hopeless).value, DeadlineExceeded)
        await asyncio.gather(running, after)
    assert seen.missed == ["dispatch"]
    assert [run.names for run in runner.runs] == [["slower than predicted"], ["after"]]


async def test_while_direct_processing_is_probed_batches_use_the_other_worker() -> None:
    broken = True
    runner = Runner(workers=2, fixed=1.0, fails=lambda asks: ConnectionError("down") if broken and asks[0].name == "direct" else None)
    async with managed(runner, failure_threshold=1, circuit_breaker_timeout=5) as manager:
        await ask(manager, Ask("direct"), direct=True)
        assert manager.snapshot().direct_breaker == "open"
        broken = False
        await asyncio.sleep(5)
        probe = asking(manager, Ask("direct", seconds=3.0), direct=True, priority=0, timeout=100)
        await turn()
        blocked = asking(manager, Ask("direct"), direct=True, priority=0, timeout=100)
        batched = await ask(manager, Ask(), timeout=100)
        assert batched.seconds < 1.5
        assert not blocked.done()
        await asyncio.gather(probe, blocked)


# -- holds -------------------------------------------------------------------------------------------------------


async def test_a_deadline_that_is_nearer_than_the_window_ends_it() -> None:
    runner = Runner(fixed=0.02)
    async with managed(runner, strategy="fixed", max_batch_wait_ms=5000) as manager:
        await teach(manager, runner, rounds=2)
        patient = asking(manager, Ask("patient"), timeout=20)
        await asyncio.sleep(0.1)
        assert (await ask(manager, Ask("urgent"), timeout=0.5)).value == ("result of", "urgent")
        await patient


async def test_a_direct_request_does_not_wait_for_the_window_of_others() -> None:
    runner = Runner(fixed=0.02)
    async with managed(runner, strategy="fixed", max_batch_wait_ms=5000) as manager:
        held = asking(manager, Ask("held"), timeout=20)
        await asyncio.sleep(0.1)
        direct = await ask(manager, Ask("direct"), direct=True, priority=2, timeout=20)
        assert direct.seconds == pytest.approx(0.02, abs=1e-3)
        assert not held.done()
        await held


# -- several workers ---------------------------------------------------------------------------------------------


async def test_fixed_makes_batches_of_its_size_on_several_workers_too() -> None:
    seen, runner = Seen(), Runner(workers=2, fixed=0.02)
    async with managed(runner, seen, strategy="fixed", target_batch_size=8) as manager:
        await asyncio.gather(*(ask(manager, Ask(n)) for n in range(8)))
        await turn()
        shown = manager.snapshot()
    assert [len(run.asks) for run in runner.runs] == [8]
    assert [batch.closed_by for batch in seen.batches] == ["full"]
    assert shown.batch_utilization == 1.0


async def test_shapes_do_not_fill_each_others_batches() -> None:
    seen, runner = Seen(), Runner(fixed=0.02)
    async with managed(runner, seen, strategy="fixed", target_batch_size=8, max_batch_wait_ms=200) as manager:
        await asyncio.sleep(10)  # the window moves to its aim
        asks = [asking(manager, Ask(n, shape=n % 4)) for n in range(8)]
        await asyncio.sleep(0.1)
        assert runner.runs == []
        await asyncio.gather(*asks)
    assert {batch.closed_by for batch in seen.batches} == {"window"}


async def test_a_place_that_becomes_free_besides_a_batchs_own_is_filled_at_once_though_nobody_arrives() -> None:
    runner = Runner(workers=2, fixed=0.1)
    async with managed(runner, max_batch_size=1, target_batch_size=1) as manager:
        manager._core.concurrency.places = 1
        first = [asking(manager, Ask(n), timeout=100) for n in range(3)]
        await turn()
        manager._core.concurrency.places = 2  # as a trial does
        await asyncio.gather(*first)
    assert [run.beside for run in runner.runs] == [1, 1, 2]


async def saturate(manager: Any, runner: Runner, seconds: float, clients: int = 40) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def client() -> None:
        while loop.time() < until:
            await manager.submit(Ask(), timeout=300)

    await asyncio.gather(*(client() for _ in range(clients)))


@pytest.mark.parametrize(("scales", "places"), [(True, 3), (False, 1)])
async def test_concurrency_follows_measured_throughput_down_at_high_load_and_up_without(scales: bool, places: int) -> None:
    """Workers that share one core gain nothing from each other: at high load places are given back, one by one."""
    load = 1.0
    runner = Runner(workers=3, fixed=0.05, slowdown=lambda running: 1.0 if scales else float(running))
    async with managed(runner, None, lambda: load, max_batch_size=2, target_batch_size=2, enable_adaptive_sizing=False) as manager:
        await saturate(manager, runner, 200)
    late = sorted(run.beside for run in runner.runs[len(runner.runs) // 2 :])
    assert late[len(late) // 2] == places, "but for the trials"


async def test_concurrency_lost_to_memory_comes_back_by_trial() -> None:
    fails: list[Exception] = [MemoryError()]
    runner = Runner(workers=3, fixed=0.05, fails=lambda asks: fails.pop() if fails and len(asks) > 1 else None)
    async with managed(runner, max_batch_size=4, target_batch_size=4) as manager:
        await saturate(manager, runner, 2)
        assert manager.snapshot().concurrency == 2
        await saturate(manager, runner, 100)
        assert manager.snapshot().concurrency == 3


async def test_what_left_a_batch_for_want_of_memory_is_refilled_into_the_next_ones() -> None:
    runner = Runner(fixed=0.05, cap=10_000, fails=lambda asks: MemoryError() if len(asks) > 3 else None)
    async with managed(runner, strategy="fixed", max_batch_wait_ms=5) as manager:
        values = await asyncio.gather(*(ask(manager, Ask(n), timeout=100) for n in range(24)))
        assert [outcome.value for outcome in values] == [("result of", n) for n in range(24)]
        later = len(runner.runs)
        await asyncio.gather(*(ask(manager, Ask(n), timeout=100) for n in range(12)))
    assert max(len(run.asks) for run in runner.runs[later:]) <= 4


async def test_one_worker_that_dies_under_a_lone_small_item_costs_the_others_nothing() -> None:
    runner = Runner(workers=2, fixed=0.05, cap=1 << 30, fails=lambda asks: WorkerLost("died") if asks[0].name == "killer" else None)
    async with managed(runner) as manager:
        await ask(manager, Ask("killer"))
        shown = manager.snapshot()
    assert (shown.byte_cap, shown.concurrency) == (1 << 30, 2)


# -- hopeless, hung, unknown -------------------------------------------------------------------------------------


async def test_an_item_that_the_worker_left_out_for_want_of_time_is_a_miss_and_no_failure() -> None:
    seen = Seen()
    runner = Runner(fixed=1.0, report_complete=False, result=lambda a: DeadlineExceeded("late") if a.name == "late" else "result")
    async with managed(runner, seen, strategy="fixed", max_batch_wait_ms=5, failure_threshold=1) as manager:
        late, other = await asyncio.gather(ask(manager, Ask("late")), ask(manager, Ask("other")))
        alone = await ask(manager, Ask("late"))
        shown = manager.snapshot()
    assert isinstance(late.value, DeadlineExceeded)
    assert late.value.retry_after is not None
    assert isinstance(alone.value, DeadlineExceeded)
    assert other.value == "result"
    assert seen.missed == ["computing", "computing"]
    assert shown.breaker == "closed"
    assert shown.predicted_wait_seconds is None, "an incomplete run was taken for a sample"


async def test_workers_are_told_how_long_each_answer_is_of_use() -> None:
    told: list[float | None] = []

    class Listening(Runner):
        async def run(self, entries: Any, finished: Any, *, hung_after: float) -> RunReport:
            told.extend(entry.seconds for entry in entries)
            return await super().run(entries, finished, hung_after=hung_after)

    async with managed(Listening(fixed=0.1)) as manager:
        await asyncio.gather(ask(manager, Ask(), timeout=5.0), ask(manager, Ask(), timeout=7.0, direct=True))
    assert sorted(left for left in told if left is not None) == pytest.approx([5.0, 7.0], abs=0.2)


async def test_before_anything_is_measured_a_run_is_hung_by_what_its_operations_should_take() -> None:
    runner = Runner(fixed=0.1)
    manager = DynamicBatchManager(process=runner, cost=lambda _: Work(nodes=64, operations=2e6))
    async with manager:
        await manager.submit(Ask())
    assert 5.0 < runner.runs[0].hung_after < 10.0


async def test_a_model_that_was_never_measured_is_expected_to_take_its_share_of_operations_more() -> None:
    runner = Runner(fixed=0.1)
    works = {"small": Work(model="small", operations=1e6), "large": Work(model="large", operations=16e6)}
    manager = DynamicBatchManager(process=runner, cost=lambda payload: works[str(getattr(payload, "name", ""))])
    async with manager:
        for _ in range(3):
            await manager.submit(Ask("small"))
        assert manager.predict(works["large"]) == pytest.approx(16 * (manager.predict(works["small"]) or 0.0))


# -- what others wrote -------------------------------------------------------------------------------------------


async def test_a_function_that_ends_in_a_cancellation_of_its_own_fails_its_batch_and_the_manager_goes_on() -> None:
    async def process(items: Any) -> Any:
        await asyncio.sleep(0.01)
        if "odd" in items:
            raise asyncio.CancelledError
        return items

    async with DynamicBatchManager(process=process) as manager:
        odd = await asyncio.gather(manager.submit("odd"), return_exceptions=True)
        assert isinstance(odd[0], ComputeFailed)
        assert await manager.submit("even", timeout=1) == "even"


async def test_a_runner_that_ends_in_a_cancellation_leaves_nobody_waiting() -> None:
    runner = Runner(fixed=0.1)

    class Cancelling(Runner):
        async def run(self, entries: Any, finished: Any, *, hung_after: float) -> RunReport:
            if entries[0].payload.name == "odd":
                raise asyncio.CancelledError
            return await super().run(entries, finished, hung_after=hung_after)

    runner = Cancelling(fixed=0.1)
    async with managed(runner) as manager:
        odd = asking(manager, Ask("odd"))
        rest = [asking(manager, Ask(n), timeout=5) for n in range(3)]
        assert isinstance((await odd).value, ComputeFailed)
        await asyncio.gather(*rest)
        assert (await ask(manager, Ask("more"), timeout=5)).value == ("result of", "more")


class Unusual:
    """Names what is not a number as its size, or as the time to hold until."""

    name = "unusual"

    def __init__(self, items: float, until: float) -> None:
        self.items, self.until = items, until

    def size(self, view: Any) -> Any:
        return Size(self.items, 0.01)

    def close(self, view: Any) -> Any:
        return Close("unusual") if self.until == 0.0 else Hold(self.until, 9)


@pytest.mark.parametrize(("items", "until"), [(float("nan"), 0.0), (float("inf"), 0.0), (4.0, float("nan")), (4.0, float("inf"))])
async def test_a_strategy_that_names_no_number_is_replaced_by_fixed(items: float, until: float, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    async with DynamicBatchManager(process=Device(), strategy=Unusual(items, until)) as manager:
        assert await manager.submit(1, timeout=1) == ("result of", 1)
        shown = manager.snapshot()
        assert (shown.strategy, shown.policy_failures) == ("fixed", 1)
        manager.reconfigure(BatchConfiguration())
        assert manager._core.strategy.name == "unusual", "until the next configuration"


async def test_a_probe_that_raises_costs_the_baseline_alone(caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)

    def probe() -> Any:
        raise OSError("no probe")

    async with DynamicBatchManager(process=Device(), probe=probe) as manager:
        await asyncio.sleep(1)
        assert await manager.submit(1) == ("result of", 1)
        shown = manager.snapshot()
    assert (shown.alive, shown.policy_failures, shown.baseline_samples) == (True, 1, 1)


@pytest.mark.parametrize("method", ["record", "baseline", "figures"])
async def test_a_performance_calculator_that_raises_is_replaced(method: str, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)

    class Calculator:
        def record(self, batch: Any) -> Any:
            assert method != "record"

        def baseline(self, work: Any, seconds: Any, now: Any) -> None:
            assert method != "baseline"

        def resize(self, window: Any) -> None: ...

        def figures(self, now: Any) -> Any:
            assert method != "figures"
            return Performance()

    async with DynamicBatchManager(process=Device(), performance=Calculator()) as manager:
        for n in range(3):
            assert await manager.submit(n) == ("result of", n)
            manager.snapshot()
        await turn()
        shown = manager.snapshot()
    assert (shown.performance, shown.policy_failures) == ("window", 1)
    assert shown.avg_batch_size == 1.0


async def test_what_is_too_large_does_not_freeze_the_adaptive_timeout() -> None:
    runner = Runner(fixed=0.01, marginal=0.01)
    async with managed(runner, max_request_seconds=1.0) as manager:
        await teach(manager, runner, rounds=4, most_nodes=3)
        for n in range(300):
            await manager.submit(Ask())
            if n % 20 == 0:
                await ask(manager, Ask(nodes=100_000))
        assert manager.snapshot().default_timeout_seconds < 30.0


async def test_starting_twice_at_once_starts_once() -> None:
    runner = Runner(fixed=0.1)
    started = 0

    class Slow(Runner):
        async def start(self) -> None:
            nonlocal started
            started += 1
            await asyncio.sleep(1)

    runner = Slow(fixed=0.1)
    manager = managed(runner)
    await asyncio.gather(manager.start(), manager.start())
    await manager.stop()
    assert started == 1
