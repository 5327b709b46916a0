"""A plain async function from a list of items to a list of results, as a `BatchRunner`.

Real workers (processes, devices) live elsewhere and implement the same Protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

from dtesn_sidecar.errors import ComputeFailed, OutOfMemory

from .protocols import Entry, RunReport, Work, WorkerHung

Process = Callable[[list[object]], Awaitable[Sequence[object]]]


class FunctionRunner:
    """Runs `process` for each batch, at most `workers` at a time.

    The length of its output is checked (ComputeFailed for the batch). An exception in place of a result fails
    that item alone. MemoryError becomes OutOfMemory; a call beyond `hung_after` is cancelled and becomes WorkerHung.
    """

    def __init__(self, process: Process, *, workers: int = 1, clock: Callable[[], float] = time.perf_counter) -> None:
        self.workers = workers
        self._process = process
        self._clock = clock

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def run(self, entries: Sequence[Entry], finished: Callable[[int, object], None], *, hung_after: float) -> RunReport:
        """Call the function once."""
        started = self._clock()
        try:
            async with asyncio.timeout(hung_after) as limit:
                results = await self._process([entry.payload for entry in entries])
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ComputeFailed("the process function was cancelled from within") from error
        except MemoryError as error:
            raise OutOfMemory(f"a batch of {len(entries)} did not fit into memory") from error
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise WorkerHung(f"the process function ran longer than {hung_after:.1f} s and was cancelled") from error
        if len(results) != len(entries):
            raise ComputeFailed(f"the process function returned {len(results)} results for {len(entries)} items")
        for entry, result in zip(entries, results, strict=True):
            finished(entry.id, result)
        works = [entry.work for entry in entries]
        return RunReport(
            seconds=self._clock() - started, nodes=sum(w.nodes for w in works), levels=max(w.levels for w in works), complete=True
        )

    def drop(self, ids: Collection[int]) -> bool:
        """A plain function cannot leave items out once it runs."""
        return False

    def byte_cap(self) -> int | None:
        """No bound."""
        return None

    def bytes_of(self, works: Sequence[Work]) -> int:
        """Nodes stand for bytes: only their ratio matters to what out-of-memory teaches."""
        return sum(work.nodes for work in works)
