"""What was measured once on a prototype or simulated, each as a test on the simulated device (20 + 0.5 n ms) in virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from bench.virtual import virtual  # quicker than looptime by an order of magnitude
from tests.unit.batching.batching_support import Device

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.errors import DeadlineExceeded, QueueFull

pytestmark = pytest.mark.looptime(start=1000)


def now() -> float:
    return asyncio.get_running_loop().time()


async def closed_loop(manager: DynamicBatchManager, clients: int, rounds: int, *, pause: float = 0.0005) -> list[float]:
    took: list[float] = []

    async def client() -> None:
        for _ in range(rounds):
            started = now()
            await manager.submit(None)
            took.append(now() - started)
            await asyncio.sleep(pause)

    await asyncio.gather(*(client() for _ in range(clients)))
    return took


async def open_loop(manager: DynamicBatchManager, rate: float, seconds: float, within: float = 20.0) -> list[float | None]:
    """Latencies in order of arrival; None: refused or too late."""
    rng = random.Random(3)
    took: list[float | None] = []
    tasks = []

    async def one(index: int) -> None:
        started = now()
        try:
            await manager.submit(None, timeout=within)
            took[index] = now() - started
        except (QueueFull, DeadlineExceeded):
            pass

    until = now() + seconds
    while now() < until:
        await asyncio.sleep(rng.expovariate(rate))
        took.append(None)
        tasks.append(asyncio.create_task(one(len(took) - 1)))
    await asyncio.gather(*tasks)
    return took


@pytest.mark.parametrize("strategy", ["load_aware", "just_in_time"])
async def test_a_lone_client_never_waits_for_nobody(strategy: Any) -> None:
    async with DynamicBatchManager(BatchConfiguration(strategy=strategy), process=Device()) as manager:
        took = await closed_loop(manager, 1, 50)
    assert max(took) == pytest.approx(0.0205, abs=1e-4)


@pytest.mark.parametrize("strategy", ["load_aware", "just_in_time"])
async def test_32_closed_loop_clients_do_not_split_into_alternating_halves(strategy: Any) -> None:
    device = Device()
    config = BatchConfiguration(strategy=strategy, max_batch_size=64)
    async with DynamicBatchManager(config, process=device) as manager:
        await closed_loop(manager, 32, 60)
    settled = device.sizes[len(device.sizes) // 2 :]
    assert sum(settled) / len(settled) > 28


def test_a_busy_server_does_not_shrink_its_batches_into_collapse() -> None:
    """70 % of what batches of 32 sustain is more than batches of 8 or of the target do; load says "full"."""
    device = Device()
    rate = 0.7 * 32 / (0.020 + 32 * 0.0005)

    async def run() -> list[float | None]:
        async with DynamicBatchManager(BatchConfiguration(), lambda: 1.0, device) as manager:
            return await open_loop(manager, rate, 20.0)

    took = virtual(run())
    answered = sorted(t for t in took[len(took) // 2 :] if t is not None)
    assert len(answered) == len(took) - len(took) // 2
    assert answered[int(0.99 * len(answered))] < 0.2


async def test_members_are_chosen_at_dispatch_so_that_a_late_urgent_request_rides_the_next_batch() -> None:
    order: list[object] = []

    async def process(items: Any) -> Any:
        order.extend(items)
        await asyncio.sleep(0.03)
        return items

    async with DynamicBatchManager(BatchConfiguration(max_batch_size=4, target_batch_size=4), process=process) as manager:
        tasks = [asyncio.create_task(manager.submit(f"slow {n}", priority=2)) for n in range(8)]
        await asyncio.sleep(0.001)
        await manager.submit("urgent", priority=0)
        await asyncio.gather(*tasks)
    assert order.index("urgent") <= 4


def test_at_twice_the_load_what_is_answered_is_answered_in_time() -> None:
    """Dropping only what has already expired leaves 11 of 358/s in time."""
    device = Device()
    capacity = 64 / 0.052

    async def run() -> list[float | None]:
        async with DynamicBatchManager(BatchConfiguration(max_batch_size=64), process=device) as manager:
            return await open_loop(manager, 2 * capacity, 10.0, within=0.2)

    took = virtual(run())
    in_time = [t for t in took if t is not None]
    assert all(t <= 0.2 for t in in_time)
    assert len(in_time) > 0.9 * capacity * 10.0


async def test_a_burst_of_150_after_idle_is_served_whole() -> None:
    async with DynamicBatchManager(BatchConfiguration(max_batch_size=64), process=Device()) as manager:
        await closed_loop(manager, 1, 20)
        await asyncio.sleep(1.0)
        started = now()
        await asyncio.gather(*(manager.submit(n, timeout=0.2) for n in range(150)))
        assert now() - started <= 0.2


async def test_priority_two_is_not_starved_by_a_flood_of_priority_zero() -> None:
    async with DynamicBatchManager(BatchConfiguration(max_batch_size=8, aging_ms=100), process=Device()) as manager:
        flood = asyncio.create_task(closed_loop(manager, 0, 0))
        stop = False

        async def urgent() -> None:
            while not stop:
                await manager.submit("urgent", priority=0)

        floods = [asyncio.create_task(urgent()) for _ in range(40)]
        await asyncio.sleep(0.5)
        started = now()
        await manager.submit("patient", priority=2, timeout=10)
        waited = now() - started
        stop = True
        await asyncio.gather(flood, *floods)
    assert waited < 0.2 + 40 / 8 * 0.03 + 0.1


async def test_the_next_batch_is_dispatched_before_the_answers_of_the_last_are_handled() -> None:
    events: list[str] = []

    async def process(items: Any) -> Any:
        events.append(f"batch of {len(items)}")
        await asyncio.sleep(0.02)
        return items

    async def ask(n: int) -> None:
        await manager.submit(n)
        events.append("answer")

    config = BatchConfiguration(strategy="just_in_time", max_batch_size=2, target_batch_size=2, min_batch_wait_ms=0, max_batch_wait_ms=0)
    async with DynamicBatchManager(config, process=process) as manager:
        await asyncio.gather(*(ask(n) for n in range(6)))
    batches = [place for place, event in enumerate(events) if event.startswith("batch")]
    answers = [place for place, event in enumerate(events) if event == "answer"]
    assert batches[1] < answers[0]
    assert all(sum(a < b for a in answers) < sum(int(events[e].split()[-1]) for e in batches[:i]) for i, b in enumerate(batches) if i)


async def test_too_few_places_cap_the_batch_that_they_were_fixed_for() -> None:
    device = Device()
    async with DynamicBatchManager(BatchConfiguration(), process=device) as manager:
        await closed_loop(manager, 1, 30)  # the forecast for the next batch is one
        await asyncio.gather(*(manager.submit(n) for n in range(5)))
        shown = manager.snapshot()
    assert device.sizes[30:] == [1, 4]
    assert shown.items_total <= shown.places_total
