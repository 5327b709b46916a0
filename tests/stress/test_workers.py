"""Faults of real workers under the whole processor: each request has its own outcome, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests import misbehaving

from dtesn_api.spec import BatchConfiguration, ModelConfiguration
from dtesn_sidecar.errors import ComputeFailed, OutOfMemory, WorkerLost
from dtesn_sidecar.model.backend import NumPyBackend
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.reservoir import Reservoir, RunItem
from dtesn_sidecar.model.weights import build_layers
from dtesn_sidecar.processor import DTESNProcessor

pytestmark = pytest.mark.stress

MODEL = ModelConfiguration(membrane_depth=3, esn_size=64)
TIMEOUT = 250.0


@pytest.fixture
async def processor(tmp_path: Path, started: Callable[[], set[psutil.Process]]) -> AsyncIterator[DTESNProcessor]:
    batching = BatchConfiguration(target_batch_size=16, enable_circuit_breaker=False)
    async with DTESNProcessor(
        MODEL, batch_config=batching, workers=2, weights_folder=tmp_path / "..", worker_command=misbehaving.COMMAND
    ) as processor:
        yield processor
    assert not started(), "a process was left behind"


@pytest.fixture(scope="session")
def reservoir() -> Reservoir:
    return Reservoir(list(build_layers(MODEL, 4, 64)), MODEL, NumPyBackend())


def alone(reservoir: Reservoir, text: object, depth: int) -> Any:
    run = reservoir.start()
    run.admit([RunItem(0, parse_input(text), depth)])
    results = []
    while run.active:
        results += run.advance()
    return results[0].features


async def ask(processor: DTESNProcessor, text: object, depth: int = 3, **options: Any) -> np.ndarray[Any, Any]:
    result = await processor.process_with_dynamic_batching(text, membrane_depth=depth, output="features", timeout=TIMEOUT, **options)
    return np.asarray(result.processed_output.features).reshape(result.processed_output.shape)


def texts(count: int, seed: int = 1) -> list[tuple[str, int]]:
    rng = random.Random(seed)
    return [(f"{n}: " + "word " * int(rng.lognormvariate(1.5, 1.0)), rng.randint(1, 3)) for n in range(count)]


def check(reservoir: Reservoir, wanted: list[tuple[str, int]], answers: list[Any]) -> None:
    """Every answer is that of its own text: a misrouted one differs by far more than rounding."""
    assert len(answers) == len(wanted)
    for (text, depth), answer in zip(wanted, answers, strict=True):
        assert isinstance(answer, np.ndarray), f"{text[:20]!r} ended with {answer!r}"
        np.testing.assert_allclose(answer, alone(reservoir, text, depth), atol=2e-6, err_msg=text[:20])


async def outcomes(processor: DTESNProcessor, wanted: list[tuple[str, int]]) -> list[Any]:
    return list(await asyncio.gather(*(ask(processor, text, depth) for text, depth in wanted), return_exceptions=True))


async def test_two_hundred_mixed_requests_at_once_are_all_answered_with_their_own(processor: DTESNProcessor, reservoir: Reservoir) -> None:
    wanted = texts(200)
    check(reservoir, wanted, await outcomes(processor, wanted))
    assert processor.worker_restarts == 0


async def test_a_worker_killed_under_load_costs_nobody_an_answer(processor: DTESNProcessor, reservoir: Reservoir) -> None:
    wanted = texts(150, seed=2)
    asked = asyncio.ensure_future(outcomes(processor, wanted))
    while not processor.manager.snapshot().computing:  # noqa: ASYNC110 - the very turn in which something is computed
        await asyncio.sleep(0)
    os.kill(processor.worker_pids[0], signal.SIGKILL)
    check(reservoir, wanted, await asked)
    assert processor.worker_restarts == 1


async def test_an_item_that_kills_its_worker_once_is_answered_like_all_others(
    processor: DTESNProcessor, reservoir: Reservoir, tmp_path: Path
) -> None:
    wanted = texts(40, seed=3)
    wanted[17] = (f"{tmp_path / 'count'}|1|die", 3)
    check(reservoir, wanted, await outcomes(processor, wanted))
    assert processor.worker_restarts >= 1


async def test_an_item_that_always_kills_its_worker_fails_alone(processor: DTESNProcessor, reservoir: Reservoir) -> None:
    wanted = texts(20, seed=4)
    asked = asyncio.ensure_future(outcomes(processor, wanted))
    with pytest.raises(WorkerLost):
        await ask(processor, "die")
    check(reservoir, wanted, await asked)


async def test_running_out_of_memory_fails_the_one_that_always_does(processor: DTESNProcessor, reservoir: Reservoir) -> None:
    wanted = texts(30, seed=5)
    asked = asyncio.ensure_future(outcomes(processor, wanted))
    with pytest.raises(OutOfMemory):
        await ask(processor, "memory")
    check(reservoir, wanted, await asked)
    assert processor.worker_restarts == 0


async def test_a_batch_that_fails_as_a_whole_is_taken_apart_until_the_culprit_is_alone(
    processor: DTESNProcessor, reservoir: Reservoir
) -> None:
    wanted = texts(30, seed=6)
    asked = asyncio.ensure_future(outcomes(processor, wanted))
    with pytest.raises(ComputeFailed, match="the device fell off"):
        await ask(processor, "broken")
    check(reservoir, wanted, await asked)


async def test_poisoned_requests_fail_alone_and_everyone_else_is_served(processor: DTESNProcessor, reservoir: Reservoir) -> None:
    wanted = texts(60, seed=7)
    asked = asyncio.ensure_future(outcomes(processor, wanted))
    poisoned = await asyncio.gather(*(ask(processor, f"poison {n}") for n in range(5)), return_exceptions=True)
    assert [type(error) for error in poisoned] == [ComputeFailed] * 5
    check(reservoir, wanted, await asked)


async def test_a_worker_that_stops_for_good_is_replaced_and_its_items_are_answered(
    processor: DTESNProcessor, reservoir: Reservoir, tmp_path: Path
) -> None:
    await outcomes(processor, texts(12, seed=8))  # what was measured says when a run counts as hung
    wanted = texts(12, seed=8)
    wanted[5] = (f"{tmp_path / 'count'}|1|hang", 3)
    check(reservoir, wanted, await outcomes(processor, wanted))
    assert processor.worker_restarts == 1


async def test_a_lone_request_whose_worker_dies_is_computed_by_the_next(
    processor: DTESNProcessor, reservoir: Reservoir, tmp_path: Path
) -> None:
    wanted = [(f"{tmp_path / 'count'}|1|die", 3)]
    check(reservoir, wanted, await outcomes(processor, wanted))
    assert processor.worker_restarts == 1


async def test_those_who_go_away_leave_the_batch_and_the_others_stay(processor: DTESNProcessor, reservoir: Reservoir) -> None:
    wanted = texts(60, seed=9)
    asked = [asyncio.ensure_future(ask(processor, text, depth)) for text, depth in wanted]
    leavers = [asyncio.ensure_future(ask(processor, "x" * 4000)) for _ in range(6)]
    while not processor.manager.snapshot().computing:  # noqa: ASYNC110 - the very turn in which something is computed
        await asyncio.sleep(0)
    for leaver in leavers:
        leaver.cancel()
    assert all(isinstance(left, asyncio.CancelledError) for left in await asyncio.gather(*leavers, return_exceptions=True))
    check(reservoir, wanted, await asyncio.gather(*asked))
    assert processor.manager.snapshot().active == 0


async def test_stopping_under_load_answers_everything_accepted_and_leaves_no_process(
    processor: DTESNProcessor, reservoir: Reservoir
) -> None:
    wanted = texts(80, seed=10)
    pids = processor.worker_pids
    asked = asyncio.ensure_future(outcomes(processor, wanted))
    while processor.manager.snapshot().active < len(wanted):  # noqa: ASYNC110 - the very turn in which all are accepted
        await asyncio.sleep(0)
    await processor.stop_batch_manager()
    check(reservoir, wanted, await asked)
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_sizes_and_depths_asked_for_at_once_are_built_and_answered(processor: DTESNProcessor) -> None:
    asked = [(size, depth) for size in (32, 64, 96, 128) for depth in (1, 2, 4)]
    answers = await asyncio.gather(
        *(
            processor.process_with_dynamic_batching("hello", esn_size=size, membrane_depth=depth, output="features", timeout=TIMEOUT)
            for size, depth in asked
        )
    )
    for (size, depth), answer in zip(asked, answers, strict=True):
        layers = list(build_layers(MODEL, depth, size))
        expected = alone(Reservoir(layers, MODEL, NumPyBackend()), "hello", depth)
        np.testing.assert_allclose(np.asarray(answer.processed_output.features), expected.reshape(-1), atol=2e-6)


async def test_memory_of_the_workers_stays_flat_over_many_batches(processor: DTESNProcessor) -> None:
    def private() -> int:
        return sum(int(psutil.Process(pid).memory_full_info().uss) for pid in processor.worker_pids)

    for _ in range(6):
        await outcomes(processor, texts(100, seed=20))
    before = private()
    for _ in range(10):
        await outcomes(processor, texts(100, seed=20))
    assert private() < 1.05 * before
