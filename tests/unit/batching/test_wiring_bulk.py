"""Many items of one call: how they are spread over batches, and in which order where they are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.batching.wiring_support import Ask, Runner, managed

from dtesn_sidecar.batching.bulk import shares

COSTS = [9, 8, 7, 6, 5, 4, 3, 2, 100, 90, 80, 70, 60, 50, 40, 30]


def totals(costs: list[int], order: list[int], batch: int) -> list[int]:
    return [sum(costs[index] for index in order[start : start + batch]) for start in range(0, len(order), batch)]


@given(st.integers(1, 12).flatmap(lambda batch: st.tuples(st.just(batch), st.integers(1, 12))), st.data())
def test_each_successive_batch_of_a_call_gets_a_like_share_of_the_cost(shape: tuple[int, int], data: st.DataObject) -> None:
    batch, batches = shape
    costs = data.draw(st.lists(st.integers(1, 1000), min_size=batch * batches, max_size=batch * batches))
    each = totals(costs, shares(costs, batch), batch)
    assert max(each) - min(each) <= max(costs) - min(costs)


async def run_through(spread: bool) -> tuple[list[list[Ask]], list[tuple[int, Any]]]:
    runner, told = Runner(fixed=0.1), []
    config: dict[str, Any] = {"strategy": "fixed", "target_batch_size": 4, "max_batch_size": 4, "max_batch_wait_ms": 5}
    async with managed(runner, **config) as manager:
        asks = [Ask(n, nodes=nodes) for n, nodes in enumerate(COSTS)]

        def each(index: int, outcome: Any) -> None:
            told.append((index, outcome.value))

        await manager.submit_each(asks, each, timeout=300, spread=spread)
    return [run.asks for run in runner.runs], told


@pytest.mark.looptime(start=1000)
async def test_a_call_is_computed_in_batches_of_like_cost() -> None:
    runs, told = await run_through(spread=True)
    assert [len(run) for run in runs] == [4, 4, 4, 4]
    costs = [sum(ask.nodes for ask in run) for run in runs]
    assert max(costs) - min(costs) <= 0.5 * sum(costs) / len(costs), "in the given order it would be 14 to 340"
    assert sorted(told) == [(n, ("result of", n)) for n in range(len(COSTS))]


@pytest.mark.looptime(start=1000)
async def test_a_call_that_is_not_to_be_spread_is_computed_in_the_given_order() -> None:
    runs, told = await run_through(spread=False)
    assert [ask.name for run in runs for ask in run] == list(range(len(COSTS)))
    assert sorted(told) == [(n, ("result of", n)) for n in range(len(COSTS))]
