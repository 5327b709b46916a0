"""Several workers: how many batches run at once, what each gets, and what is left idle."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.unit.batching.wiring_support import Ask, Runner, Seen, ask, asking, managed, turn

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.errors import OutOfMemory, WorkerLost

pytestmark = pytest.mark.looptime(start=1000)


SMALL: dict[str, Any] = {"target_batch_size": 4, "max_batch_size": 4, "enable_adaptive_sizing": False}


async def closed_loop(manager: Any, seconds: float, clients: int = 32) -> None:
    """Clients who ask again at once, so that there is a backlog all the time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def client() -> None:
        while loop.time() < end:
            assert not isinstance((await ask(manager, Ask(), timeout=300)).value, Exception)

    await asyncio.gather(*(client() for _ in range(clients)))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["fixed", "load_aware", "just_in_time"])
async def test_a_backlog_keeps_every_worker_busy_and_none_twice(workers: int, strategy: str) -> None:
    runner = Runner(workers=workers, fixed=0.1)
    async with managed(runner, strategy=strategy, max_batch_wait_ms=5, **SMALL) as manager:
        await closed_loop(manager, 5.0)
        assert manager.snapshot().workers == workers
    assert runner.most_running == workers
    assert len(runner.runs) * 0.1 >= 0.85 * workers * 5.0


@pytest.mark.parametrize("most", [1, 2, None])
async def test_max_concurrent_batches_bounds_the_batches_at_once(most: int | None) -> None:
    runner = Runner(workers=3, fixed=0.1)
    async with managed(runner, max_concurrent_batches=most) as manager:
        await closed_loop(manager, 5.0)
        assert manager.snapshot().concurrency == (most or 3)
    assert runner.most_running == (most or 3)


async def test_max_concurrent_batches_is_taken_by_reconfigure() -> None:
    runner = Runner(workers=3, fixed=0.1)
    async with managed(runner) as manager:
        await closed_loop(manager, 1.0)
        assert runner.most_running == 3
        manager.reconfigure(BatchConfiguration(max_concurrent_batches=1))
        await turn()
        runner.most_running = 0
        await closed_loop(manager, 1.0)
        assert runner.most_running == 1
        manager.reconfigure(BatchConfiguration())
        await closed_loop(manager, 1.0)
        assert runner.most_running == 3


async def test_batches_at_once_fall_at_high_load_where_one_fewer_costs_nothing_and_rise_when_it_is_over() -> None:
    """At first two workers compute no more than one does; later they compute twice as much."""
    load = 0.95
    runner = Runner(workers=2, fixed=0.5, slowdown=lambda running: running)
    async with managed(runner, None, lambda: load, **SMALL) as manager:
        assert manager.snapshot().concurrency == 2
        await closed_loop(manager, 60.0)
        assert manager.snapshot().concurrency == 1
        load, runner.slowdown = 0.5, lambda running: 1.0
        await closed_loop(manager, 90.0)
        assert manager.snapshot().concurrency == 2


@pytest.mark.parametrize("load", [None, 0.5])
async def test_batches_at_once_do_not_fall_without_high_load(load: float | None) -> None:
    runner = Runner(workers=2, fixed=0.5, slowdown=lambda running: running)
    async with managed(runner, None, lambda: load, **SMALL) as manager:
        await closed_loop(manager, 60.0)
        assert manager.snapshot().concurrency == 2


async def test_batches_at_once_stay_at_high_load_where_each_pays() -> None:
    runner = Runner(workers=2, fixed=0.5)
    async with managed(runner, None, lambda: 0.95, **SMALL) as manager:
        places = []
        for _ in range(20):
            await closed_loop(manager, 5.0)
            places.append(manager.snapshot().concurrency)
    assert places.count(2) >= 15, "a trial now and then, and back"


async def open_loop(manager: Any, rate: float, seconds: float) -> set[int]:
    """Poisson arrivals; the batches at once that were allowed meanwhile."""
    rng, loop = random.Random(1), asyncio.get_running_loop()
    end, tasks, places = loop.time() + seconds, [], set()
    while loop.time() < end:
        await asyncio.sleep(rng.expovariate(rate))
        tasks.append(asking(manager, Ask(), timeout=300))
        places.add(manager.snapshot().concurrency)
    await asyncio.gather(*tasks)
    return places


async def test_batches_at_once_do_not_fall_at_high_load_while_there_is_no_backlog() -> None:
    """Throughput is then what arrives, with one worker as with two; but with one everybody would wait longer."""
    runner = Runner(workers=2, fixed=0.5)
    async with managed(runner, None, lambda: 0.95, min_batch_wait_ms=1, max_batch_wait_ms=2) as manager:
        assert await open_loop(manager, 20.0, 120.0) == {2}


async def test_a_place_that_memory_took_comes_back_without_a_backlog_too() -> None:
    runner = Runner(workers=2, fixed=0.5, fails=lambda asks: OutOfMemory("too large") if len(asks) > 3 else None)
    async with managed(runner, **SMALL) as manager:
        await asyncio.gather(*(ask(manager, Ask(n), timeout=300) for n in range(5)))
        assert manager.snapshot().concurrency == 1
        runner.fails = lambda asks: None
        await open_loop(manager, 2.0, 60.0)
        assert manager.snapshot().concurrency == 2


async def test_a_batch_that_ran_out_of_memory_takes_a_place_at_once_and_throughput_gives_it_back() -> None:
    runner = Runner(workers=2, fixed=0.5, fails=lambda asks: OutOfMemory("too large") if len(asks) > 3 else None)
    async with managed(runner, **SMALL) as manager:
        await asyncio.gather(*(ask(manager, Ask(n), timeout=300) for n in range(5)))
        assert manager.snapshot().concurrency == 1
        runner.fails = lambda asks: None
        await closed_loop(manager, 90.0)
        assert manager.snapshot().concurrency == 2


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("strategy", ["load_aware", "just_in_time"])
async def test_what_is_in_hand_is_shared_out_to_the_idle_workers(workers: int, strategy: str) -> None:
    """An idle worker beside a batch of many would be waste: the whole is over sooner when each takes its share."""
    runner = Runner(workers=workers, fixed=0.02, marginal=0.02)
    async with managed(runner, strategy=strategy) as manager:
        for _ in range(5):  # at first there is no forecast, and one place
            runner.runs.clear()
            await asyncio.gather(*(ask(manager, Ask(n), timeout=300) for n in range(4 * workers)))
    assert [len(run.asks) for run in runner.runs] == [4] * workers


async def test_a_worker_that_hangs_holds_up_nobody_else() -> None:
    runner, seen = Runner(workers=2, fixed=0.1), Seen()
    async with managed(runner, seen, strategy="just_in_time") as manager:
        await ask(manager, Ask())
        stuck = asking(manager, Ask("stuck", seconds=50.0), timeout=300)
        await turn()
        for n in range(20):
            quick = await ask(manager, Ask(n), timeout=1.0)
            assert quick.value == ("result of", n)
            assert quick.seconds < 0.15
        assert (await stuck).value == ("result of", "stuck")


async def test_shapes_compute_beside_each_other_on_different_workers() -> None:
    runner = Runner(workers=2, fixed=1.0)
    async with managed(runner, strategy="just_in_time") as manager:
        outcomes = await asyncio.gather(*(ask(manager, Ask(n, shape=n % 2), timeout=300) for n in range(2)))
    assert [outcome.seconds for outcome in outcomes] == [pytest.approx(1.0, abs=0.02)] * 2
    assert {run.beside for run in runner.runs} == {1, 2}


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_whatever_workers_die_of_everyone_is_answered_once_and_the_counts_return_to_nothing(workers: int) -> None:
    deaths = iter(range(1000))

    def fails(asks: list[Ask]) -> Exception | None:
        return WorkerLost("died") if next(deaths) % 5 == 0 else None

    runner, seen = Runner(workers=workers, fixed=0.05, fails=fails), Seen()
    async with managed(runner, seen, enable_circuit_breaker=False) as manager:
        outcomes = await asyncio.gather(*(ask(manager, Ask(n), timeout=300) for n in range(200)))
        await turn()
        shown = manager.snapshot()
    answered = [outcome.value for outcome in outcomes]
    assert all(value == ("result of", n) or isinstance(value, WorkerLost) for n, value in enumerate(answered))
    assert sum(not isinstance(value, Exception) for value in answered) > 150
    assert len(seen.done) == 200
    assert (shown.pending, shown.active, shown.computing, shown.workers_busy) == (0, 0, 0, 0)
