"""The improvement as the manager measures it: of runs as they keep the workers, and against what it withholds from them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from tests.unit.batching.wiring_support import Ask, Runner, ask, asking, managed

from dtesn_sidecar.batching.protocols import RunReport

pytestmark = pytest.mark.looptime(start=1000)

PAIRS: dict[str, Any] = {"strategy": "fixed", "target_batch_size": 2, "max_batch_size": 2, "enable_adaptive_sizing": False}


class Disturbed(Runner):
    """With several runs or items under way, strangers take half of the time: a run takes twice as long and says so."""

    async def run(self, *args: Any, **options: Any) -> RunReport:
        report = await super().run(*args, **options)
        alone = len(self.runs[-1].asks) == 1
        return dataclasses.replace(report, cpu_seconds=report.seconds if alone else report.seconds / 2)


async def in_pairs(manager: Any, count: int) -> None:
    for _ in range(count):
        await asyncio.gather(*(asking(manager, Ask(), timeout=300) for _ in range(2)))


def improvement(manager: Any) -> float | None:
    found: float | None = manager.snapshot().throughput_improvement
    return found


async def test_a_lone_client_sees_no_improvement_and_no_noise() -> None:
    async with managed(Runner(workers=2, fixed=0.1, marginal=0.01)) as manager:
        for nodes in (1, 7, 3, 50, 2):
            await ask(manager, Ask(nodes=nodes), timeout=300)
        assert improvement(manager) == 0.0


async def test_a_lone_client_whom_the_strategy_holds_for_nobody_sees_what_that_costs() -> None:
    async with managed(Runner(fixed=0.1), max_batch_wait_ms=50, **PAIRS) as manager:
        for _ in range(5):
            await ask(manager, Ask(), timeout=300)
        assert improvement(manager) == pytest.approx(100 * (0.1 / 0.15 - 1))


@pytest.mark.parametrize(("workers", "expected"), [(1, 100.0), (2, 0.0)])
async def test_a_batch_beside_an_idle_worker_is_compared_with_what_both_could_have_done(workers: int, expected: float) -> None:
    async with managed(Runner(workers=workers), max_concurrent_batches=workers, **PAIRS) as manager:
        await ask(manager, Ask(), timeout=300, direct=True)
        await in_pairs(manager, 5)
        assert improvement(manager) == pytest.approx(expected, abs=0.01)


async def test_direct_runs_are_samples_of_the_baseline_and_not_of_batching() -> None:
    async with managed(Runner(), **PAIRS) as manager:
        await ask(manager, Ask(), timeout=300, direct=True)
        assert (improvement(manager), manager.snapshot().baseline_samples) == (None, 1)
        await in_pairs(manager, 5)
        for _ in range(20):
            await ask(manager, Ask(), timeout=300, direct=True)
        assert improvement(manager) == pytest.approx(100.0, abs=0.01)


async def test_batches_that_wait_for_a_core_are_compared_as_if_they_had_not() -> None:
    runner = Disturbed(marginal=0.5, fixed=0.5)
    async with managed(runner, **PAIRS) as manager:
        await ask(manager, Ask(), timeout=300, direct=True)
        runner.slowdown = lambda running: 2.0
        await in_pairs(manager, 5)
        assert improvement(manager) == pytest.approx(100 * (2.0 / 1.5 - 1), abs=0.01)
