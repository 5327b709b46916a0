"""The library in any asyncio program: the processor, the manager for a function of one's own, and their errors.

Run it with `python examples/plain_asyncio.py`.
"""

import asyncio

from dtesn_sidecar import (
    BatchConfiguration,
    BreakerOpen,
    DeadlineExceeded,
    DTESNProcessor,
    DynamicBatchManager,
    ModelConfiguration,
    QueueFull,
    RequestTooLarge,
    SchedulingBudget,
    ServerLoadTracker,
)


async def texts(tracker: ServerLoadTracker) -> None:
    """Compute Deep Tree Echo State Networks over texts."""
    processor = DTESNProcessor(
        config=ModelConfiguration(membrane_depth=4, esn_size=128),
        enable_dynamic_batching=True,
        batch_config=BatchConfiguration(target_batch_size=12, max_batch_size=48),
        server_load_tracker=tracker.get_current_load,
    )
    await processor.start_batch_manager()  # or: async with processor
    try:
        result = await processor.process_with_dynamic_batching(
            input_data="test input", membrane_depth=4, esn_size=128, priority=1, timeout=None
        )
        output = result.processed_output
        print(f"{output.output} of {output.nodes} nodes in {result.processing_time_ms:.1f} ms")

        many = await asyncio.gather(*(processor.process_with_dynamic_batching(f"text number {n}") for n in range(50)))
        together = sum(one.engine_integration.batch_processed for one in many)
        print(f"{len(many)} requests, {together} of them computed together with others")

        outcomes = await processor.process_batch(inputs=["a", [0.5, 0.25], {"label": 1, "children": []}], enable_load_balancing=True)
        print("a bulk call:", [outcome.status for outcome in outcomes])

        try:
            await processor.process_with_dynamic_batching("x" * 5000)
        except RequestTooLarge as error:
            print("refused:", error.detail)

        metrics = processor.batch_metrics()  # the body of GET /dtesn/batch_metrics
        print(f"{metrics.metrics.requests_processed} requests, {metrics.pending_requests} pending")
    finally:
        await processor.stop_batch_manager()


async def any_function(tracker: ServerLoadTracker) -> None:
    """Batch any async function from a list of items to a list of results."""

    async def squares(items: list[object]) -> list[object]:
        return [item * item if isinstance(item, int) else TypeError("not a number") for item in items]

    manager = DynamicBatchManager(
        config=BatchConfiguration(max_queue_size=256),
        load_tracker=tracker.get_current_load,
        process=squares,
        budget=SchedulingBudget(token_budget=1024, max_num_seqs=16),
    )
    async with manager:  # or start() / stop()
        print("one:", await manager.submit(7, priority=0, timeout=1.0))
        print("many:", await manager.submit_many(list(range(8))))
        try:
            await manager.submit("seven", timeout=1.0)
        except TypeError as error:
            print("its own failure:", error)
        except (QueueFull, DeadlineExceeded, BreakerOpen) as error:
            print(f"try again in {error.retry_after} s")


async def main() -> None:
    """Both, with one tracker of the load."""
    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(provider=lambda: 0.4, weight=0.3)  # a plain or async function -> [0, 1], or None for no data
        await texts(tracker)
        await any_function(tracker)


if __name__ == "__main__":
    asyncio.run(main())
