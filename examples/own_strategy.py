"""A batch strategy and a performance calculator of one's own, in the manager and in the processor.

A strategy is two pure decisions: how large a batch may be, and whether a free device waits for more. The manager
clamps what comes back to the configured bounds, and falls back to `fixed` when a strategy raises. A calculator is told
of every batch and says how well batching does. Run it with `python examples/own_strategy.py`.
"""

import asyncio
from collections import deque

from dtesn_sidecar import BatchConfiguration, DTESNProcessor, DynamicBatchManager, ModelConfiguration
from dtesn_sidecar.batching.performance import BatchRecord, Performance
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.batching.strategies import Close, Decision, Hold, Size, SizeView, WindowView


class Pairs:
    """Two at a time: the first waits for a second, at most 10 ms."""

    name = "pairs"

    def size(self, view: SizeView) -> Size:
        """Two items, whatever the load."""
        return Size(items=2, window=min(0.01, view.longest_window))

    def close(self, view: WindowView) -> Decision:
        """Hold while the window is open; the manager itself closes a full batch."""
        until = view.opened + view.window
        return Hold(until, items=2) if view.now < until else Close("window")


class LastBatches:
    """Averages over the last batches; without a baseline of its own it measures no improvement."""

    def __init__(self) -> None:
        self._records: deque[BatchRecord] = deque(maxlen=100)

    def record(self, batch: BatchRecord) -> float | None:
        """Keep it; how efficient the device was is not known here."""
        self._records.append(batch)
        return None

    def baseline(self, work: Work, seconds: float, now: float) -> None:
        """Not used."""

    def resize(self, window: int) -> None:
        """`performance_window_size` changed."""
        self._records = deque(self._records, maxlen=window)

    def figures(self, now: float) -> Performance:
        """What was counted; all else is None, not measured."""
        records = self._records
        if not records:
            return Performance()
        items = sum(record.items for record in records)
        return Performance(
            avg_batch_size=items / len(records),
            avg_seconds=sum(record.seconds for record in records) / len(records),
            success_rate=sum(record.succeeded for record in records) / items,
        )


async def lengths(items: list[object]) -> list[object]:
    """What is batched here."""
    return [len(str(item)) for item in items]


async def main() -> None:
    """The same two objects with any function, and with the DTESN."""
    config = BatchConfiguration(max_batch_size=8, target_batch_size=2)

    async with DynamicBatchManager(config, process=lengths, strategy=Pairs(), performance=LastBatches()) as manager:
        print("lengths:", await manager.submit_many(["one", "three", "seven", "eleven"]))
        snapshot = manager.snapshot()
        print(f"{snapshot.strategy}: {snapshot.avg_batch_size:.1f} items per batch, improvement {snapshot.throughput_improvement}")

    model = ModelConfiguration(membrane_depth=2, esn_size=64)
    async with DTESNProcessor(model, batch_config=config, strategy=Pairs(), performance=LastBatches()) as processor:
        results = await asyncio.gather(*(processor.process_with_dynamic_batching(f"text {n}") for n in range(10)))
        print("batches of", sorted({result.timing.batch_items for result in results}))


if __name__ == "__main__":
    asyncio.run(main())
