"""What the manager's rules come to in real workers: who is not waited for is not computed, and a call is spread."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dtesn_api.spec import BatchConfiguration, ModelConfiguration
from dtesn_sidecar.batching.protocols import BatchDone, SilentObserver
from dtesn_sidecar.errors import DeadlineExceeded
from dtesn_sidecar.processor import DTESNProcessor

pytestmark = pytest.mark.stress

MODEL = ModelConfiguration(membrane_depth=3, esn_size=64, max_nodes=100_000)
LONG = "x" * 100_000


class Batches(SilentObserver):
    def __init__(self) -> None:
        self.done: list[BatchDone] = []

    def batch_done(self, event: BatchDone) -> None:
        self.done.append(event)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("by_deadline", [False, True])
async def test_a_worker_stops_computing_what_nobody_waits_for(workers: int, by_deadline: bool, tmp_path: Path) -> None:
    seen = Batches()
    batching = BatchConfiguration(max_request_seconds=1000)
    async with DTESNProcessor(MODEL, batch_config=batching, workers=workers, weights_folder=tmp_path, observer=seen) as processor:
        timeout, computed = 0.1 if by_deadline else 250.0, False
        while not computed:  # a machine so slow that the deadline comes before the compute is given longer
            unwanted = asyncio.create_task(processor.process_with_dynamic_batching(LONG, timeout=timeout))
            while not (computed or unwanted.done()):
                await asyncio.sleep(0)  # the very turn in which it is computed
                computed = processor.manager.snapshot().computing > 0
            if not by_deadline:
                unwanted.cancel()
            ended: Any = (await asyncio.gather(unwanted, return_exceptions=True))[0]
            assert isinstance(ended, DeadlineExceeded if by_deadline else asyncio.CancelledError)
            timeout *= 2
        await processor.process_with_dynamic_batching("next", timeout=250.0)
        await asyncio.sleep(0)
    cut = [batch for batch in seen.done if not batch.complete]
    assert len(cut) == 1
    assert cut[0].nodes_dropped > 0


@pytest.mark.parametrize("spread", [True, False])
async def test_enable_load_balancing_gives_the_batches_of_a_call_a_like_share_of_its_nodes(spread: bool, tmp_path: Path) -> None:
    seen = Batches()
    batching = BatchConfiguration(
        strategy="fixed", target_batch_size=4, max_batch_size=4, max_batch_wait_ms=10_000, min_batch_wait_ms=10_000, max_batch_seconds=60
    )
    inputs = ["x" * nodes for nodes in (10, 10, 10, 10, 20, 20, 20, 20, 400, 400, 400, 400, 800, 800, 800, 800)]
    async with DTESNProcessor(MODEL, batch_config=batching, workers=0, weights_folder=tmp_path, observer=seen) as processor:
        outcomes = await processor.process_batch(inputs, enable_load_balancing=spread, timeout=250.0)
        await asyncio.sleep(0)
    assert [outcome.status for outcome in outcomes] == ["success"] * len(inputs)
    assert [batch.items for batch in seen.done] == [4] * 4
    nodes = [batch.nodes for batch in seen.done]
    if spread:
        assert max(nodes) <= 1.1 * min(nodes)
    else:
        assert nodes == sorted(nodes)
        assert max(nodes) > 10 * min(nodes)
