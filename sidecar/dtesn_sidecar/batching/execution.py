"""Running one batch to its end: the first run, and what follows when it fails. Nothing here chooses batches.

Every item of the batch is settled exactly once, or has already left (cancelled, expired).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dtesn_sidecar.errors import DeadlineExceeded, DTESNError, OutOfMemory, Unavailable, WorkerLost

from .batch import Batch, BatchResult
from .bisect import Bisection, most_runs
from .cost import CostModels
from .item import Item, State
from .protocols import BatchRunner, Entry, RunReport, Work, WorkerHung

HUNG_FACTOR = 10.0
HUNG_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Context:
    """What a run needs of the manager. `settle(item, value or exception)` gives an item its outcome.

    `hopeless(item, where)` does so where its deadline can no longer be met.
    """

    runner: BatchRunner
    clock: Callable[[], float]
    settle: Callable[[Item, object], None]
    hopeless: Callable[[Item, str], None]
    cost: CostModels
    out_of_memory: Callable[[Sequence[Work]], None]
    lost: Callable[[str], None]
    ran: Callable[[], None]


async def execute(batch: Batch, context: Context) -> BatchResult:
    """Run the batch; bisect it when it fails as a whole. Raises nothing but cancellation."""
    result = BatchResult()
    started = context.clock()
    results: dict[int, object] = {}
    error = await _run(batch.items, context, result, results, first=True)
    if error is None:
        waiting = [item for item in batch.items if item.id not in results]
        dropped = any(item.state is not State.COMPUTING for item in waiting) or len(waiting) > 0
        result.clean = result.report is not None and result.report.complete and not dropped and result.failed == 0
        _give_up([item for item in waiting if item.state is State.COMPUTING], context, result, "the worker returned no result")
    else:
        await _take_apart(batch, error, context, result, results)
    result.seconds = context.clock() - started
    return result


async def _take_apart(batch: Batch, error: Exception, context: Context, result: BatchResult, results: dict[int, object]) -> None:
    undecided = [item for item in batch.items if item.state is State.COMPUTING and item.id not in results]
    result.cause = _cause(error)
    if len(undecided) == 1 and result.cause in ("worker_lost", "hung") and context.clock() < undecided[0].deadline:
        # A worker may be lost by what is no doing of the item (the kernel's out-of-memory killer): once more, and no loop.
        result.runs += 1
        again = await _run(undecided, context, result, results, first=False)
        undecided = [item for item in undecided if item.state is State.COMPUTING and item.id not in results]
        if again is None:
            _give_up(undecided, context, result, "the worker returned no result")
            return
        error = again
    if len(undecided) <= 1:
        for item in undecided:
            _fail(item, error, context, result)
        return
    runs = {"hung": 2, "out_of_memory": 2 * len(undecided)}.get(result.cause, most_runs(len(undecided)))
    bisection = Bisection(undecided, runs=runs)

    def waiting(item: Item) -> bool:
        return item.state is State.COMPUTING and context.clock() < item.deadline

    while (group := bisection.next_group(waiting)) is not None:
        failure = await _run(group, context, result, results, first=False)
        if failure is None:
            _give_up([i for i in group if i.id not in results and i.state is State.COMPUTING], context, result, "no result")
            continue
        left = [item for item in group if item.state is State.COMPUTING and item.id not in results]
        if len(left) == 1 or (_cause(failure) == "hung" and left):
            for item in left:
                _fail(item, failure, context, result)
        else:
            bisection.failed(left)
    result.runs += bisection.runs
    left = [item for item in bisection.undecided() if item.state is State.COMPUTING]
    result.undecided = len(left)
    _give_up(left, context, result, "the batch failed and could not be taken apart in time")


async def _run(
    items: Sequence[Item], context: Context, result: BatchResult, results: dict[int, object], *, first: bool
) -> Exception | None:
    """One run. Returns the error of the run as a whole, or None."""
    by_id = {item.id: item for item in items}

    def finished(item_id: int, value: object) -> None:
        item = by_id.get(item_id)
        if item is None or item_id in results:
            return
        results[item_id] = value
        if isinstance(value, DeadlineExceeded):  # left out for want of time, which is no failure of the batch
            if item.state is State.COMPUTING:
                context.hopeless(item, "computing")
            return
        if isinstance(value, Exception):
            result.failed += 1
            result.blamed += isinstance(value, DTESNError) and value.blames_input
        else:
            result.succeeded += 1
        if item.state is State.COMPUTING:
            context.settle(item, value)

    works = [item.work for item in items]
    hung_after = HUNG_FACTOR * context.cost.expect(works) + HUNG_GRACE
    now = context.clock()
    entries = [Entry(item.id, item.payload, item.work, None if item.deadline == math.inf else item.deadline - now) for item in items]
    try:
        report: RunReport = await context.runner.run(entries, finished, hung_after=hung_after)
    except OutOfMemory as error:
        context.out_of_memory(works)
        return error
    except MemoryError:
        context.out_of_memory(works)
        return OutOfMemory(f"a batch of {len(items)} did not fit into memory")
    except WorkerLost as error:
        reason = "hung" if isinstance(error, WorkerHung) else "died"
        context.lost(reason)
        if reason == "died":  # the kernel's out-of-memory killer is the usual reason
            context.out_of_memory(works)
        return error
    except Exception as error:  # noqa: BLE001 - whatever the function raises is this batch's failure, and it is bisected
        return error
    context.ran()
    if first:
        result.report = report
    return None


def _cause(error: Exception) -> str:
    if isinstance(error, OutOfMemory):
        return "out_of_memory"
    if isinstance(error, WorkerLost):
        return "hung" if isinstance(error, WorkerHung) else "worker_lost"
    return "error"


def _fail(item: Item, error: Exception, context: Context, result: BatchResult) -> None:
    result.failed += 1
    result.blamed += isinstance(error, DTESNError) and error.blames_input
    context.settle(item, error)


def _give_up(items: Sequence[Item], context: Context, result: BatchResult, why: str) -> None:
    for item in items:
        result.failed += 1
        context.settle(item, Unavailable(why, retry_after=1.0))
