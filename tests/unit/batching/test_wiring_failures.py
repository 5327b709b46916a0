"""What an open breaker, a failing calculator and a new configuration change for those who are queued."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.batching.wiring_support import Ask, Runner, Seen, ask, asking, managed, teach, turn

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.performance import Performance
from dtesn_sidecar.errors import BreakerOpen, QueueFull

pytestmark = pytest.mark.looptime(start=1000)


def down(asks: list[Ask]) -> Exception | None:
    return ConnectionError("down")


def up(asks: list[Ask]) -> Exception | None:
    return None


async def fail(manager: Any, runner: Runner, times: int, **options: Any) -> None:
    runner.fails = down
    for _ in range(times):
        assert isinstance((await ask(manager, Ask(), **options)).value, ConnectionError)
    runner.runs.clear()


async def test_when_the_direct_breaker_opens_whoever_is_queued_for_it_fails_at_once_and_is_told_when_to_come_back() -> None:
    runner = Runner(fixed=0.1, fails=down)
    async with managed(runner, failure_threshold=2, circuit_breaker_timeout=40) as manager:
        outcomes = await asyncio.gather(*(ask(manager, Ask(n), timeout=300, direct=True) for n in range(6)))
        batched = await ask(manager, Ask("batched"))
    assert [type(outcome.value) for outcome in outcomes] == [ConnectionError] * 2 + [BreakerOpen] * 4
    assert all(outcome.seconds == pytest.approx(0.2, abs=0.01) for outcome in outcomes[2:])
    assert all(isinstance(o.value, BreakerOpen) and (o.value.retry_after or 0) >= 1 for o in outcomes[2:])
    assert [run.names for run in runner.runs] == [[0], [1], ["batched"]]
    assert isinstance(batched.value, ConnectionError), "the other breaker is closed, and its requests are tried"


async def test_while_the_breaker_is_open_a_request_is_admitted_by_what_runs_of_one_will_take() -> None:
    runner, seen = Runner(fixed=1.0), Seen()
    config: dict[str, Any] = {"failure_threshold": 2, "circuit_breaker_timeout": 600, "max_direct_concurrency": 50}
    async with managed(runner, seen, **config) as manager:
        await teach(manager, runner, rounds=5)
        await fail(manager, runner, 2, timeout=60)
        runner.fails = up
        assert manager.snapshot().breaker == "open"
        first = [asking(manager, Ask(n), timeout=60) for n in range(6)]
        await turn()
        assert isinstance((await ask(manager, Ask("hopeless"), timeout=5)).value, QueueFull)
        assert [event.reason for event in seen.refusals] == ["deadline"]
        outcomes = await asyncio.gather(*first)
    assert [outcome.value for outcome in outcomes] == [("result of", n) for n in range(6)]
    assert {len(run.asks) for run in runner.runs} == {1}


@pytest.mark.parametrize("direct", [False, True])
async def test_reconfigure_takes_the_threshold_of_the_breakers(direct: bool) -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, failure_threshold=50) as manager:
        await fail(manager, runner, 3, direct=direct)
        shown = manager.snapshot()
        assert (shown.breaker, shown.direct_breaker) == ("closed", "closed")
        manager.reconfigure(BatchConfiguration(failure_threshold=4))
        await fail(manager, runner, 1, direct=direct)
        shown = manager.snapshot()
    assert (shown.breaker, shown.direct_breaker) == (("closed", "open") if direct else ("open", "closed"))


async def test_reconfigure_takes_the_timeout_of_the_breaker_from_when_it_next_opens() -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, failure_threshold=1, circuit_breaker_timeout=5) as manager:
        manager.reconfigure(BatchConfiguration(failure_threshold=1, circuit_breaker_timeout=50))
        await fail(manager, runner, 1)
        assert manager.snapshot().breaker_retry_after == pytest.approx(50, abs=1)
        await asyncio.sleep(40)
        assert manager.snapshot().breaker == "open"
        await asyncio.sleep(11)
        assert manager.snapshot().breaker == "half_open"


async def test_reconfigure_can_turn_the_breaker_off_and_on() -> None:
    runner = Runner(fixed=0.1)
    async with managed(runner, failure_threshold=1, circuit_breaker_timeout=500) as manager:
        await fail(manager, runner, 1)
        assert (await ask(manager, Ask())).value != ("result of", "any")
        runner.fails = up
        manager.reconfigure(BatchConfiguration(enable_circuit_breaker=False))
        done = await manager.submit_detailed(Ask())
        assert not done.direct
        manager.reconfigure(BatchConfiguration(circuit_breaker_timeout=500))
        assert manager.snapshot().breaker == "open"


@pytest.mark.parametrize(("aging_ms", "first"), [(500, "low"), (10_000, "high")])
@pytest.mark.parametrize("reconfigured", [False, True])
async def test_aging_decides_who_is_first_and_reconfigure_takes_it(aging_ms: float, first: str, reconfigured: bool) -> None:
    runner = Runner(fixed=10.0)
    config: dict[str, Any] = {"target_batch_size": 1, "max_batch_size": 1, "max_batch_seconds": 60.0}
    async with managed(runner, **config, aging_ms=50_000.0 if reconfigured else aging_ms) as manager:
        if reconfigured:
            manager.reconfigure(BatchConfiguration(**config, aging_ms=aging_ms))
        tasks = [asking(manager, Ask("running"), timeout=300)]
        await turn()
        tasks.append(asking(manager, Ask("low"), priority=2, timeout=300))
        await asyncio.sleep(2.0)
        tasks.append(asking(manager, Ask("high"), priority=0, timeout=300))
        await asyncio.gather(*tasks)
    assert runner.runs[1].names == [first]


class FailingCalculator:
    """Raises where it is told to."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.asked = 0

    def _may_raise(self, method: str) -> None:
        if method == self.method:
            self.asked += 1
            raise ArithmeticError(f"in {method}")

    def record(self, batch: Any) -> float | None:
        self._may_raise("record")
        return None

    def baseline(self, work: Any, seconds: float, now: float) -> None:
        self._may_raise("baseline")

    def resize(self, window: int) -> None: ...

    def figures(self, now: float) -> Performance:
        self._may_raise("figures")
        return Performance()


@pytest.mark.parametrize("method", ["record", "baseline", "figures"])
async def test_a_performance_calculator_that_raises_is_replaced_by_the_window_and_counted(method: str, caplog: Any) -> None:
    caplog.set_level("CRITICAL")
    calculator, runner = FailingCalculator(method), Runner(fixed=0.1)
    async with managed(runner, own={"performance": calculator}) as manager:
        assert manager.snapshot().performance in ("FailingCalculator", "window")
        for n in range(5):
            assert (await ask(manager, Ask(n))).value == ("result of", n)
        await turn()
        shown = manager.snapshot()
    assert calculator.asked == 1
    assert (shown.alive, shown.performance, shown.policy_failures) == (True, "window", 1)
    assert "ArithmeticError" in (shown.last_policy_failure or "")
    assert shown.avg_batch_size == 1.0
    assert shown.success_rate == 1.0


async def test_device_efficiency_is_the_node_rate_over_the_best_of_that_shape() -> None:
    runner, seen = Runner(fixed=1.0), Seen()
    async with managed(runner, seen, strategy="fixed", max_batch_wait_ms=5) as manager:
        assert manager.snapshot().device_efficiency is None
        await asyncio.gather(*(ask(manager, Ask(n), timeout=60) for n in range(4)))
        await turn()
        assert manager.snapshot().device_efficiency == pytest.approx(1.0)
        await ask(manager, Ask(), timeout=60)
        await ask(manager, Ask(shape="another"), timeout=60)
        await turn()
        shown = manager.snapshot()
    assert [batch.efficiency for batch in seen.batches] == [pytest.approx(1.0), pytest.approx(0.25), pytest.approx(1.0)]
    assert shown.device_efficiency == pytest.approx(0.75)
