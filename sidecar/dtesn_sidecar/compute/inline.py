"""Threads of the application as a `BatchRunner`: one per device, for GPUs and for use as a library.

A thread cannot be killed: one that hangs is abandoned, and another takes its place. Its batch is driven by the same
loop as in a worker process.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtesn_sidecar.batching.protocols import Entry, RunReport, Work, WorkerHung
from dtesn_sidecar.compute.drive import Finished, Reservoirs, Task, drive
from dtesn_sidecar.compute.job import Job
from dtesn_sidecar.compute.memory import MemoryBound
from dtesn_sidecar.compute.messages import Report, error_of, fault_of, run_report
from dtesn_sidecar.errors import WorkerLost

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_sidecar.model.backend import Backend
    from dtesn_sidecar.model.readout.value import OutputLayer

_JOIN_SECONDS: Final = 5.0

Finish = Callable[[int, object], None]


class _Abandoned(Exception):
    """Nobody waits for this run any more."""


@dataclass(slots=True, eq=False)
class _Run:
    tasks: list[Task]
    esn_size: int
    layers: int
    folder: Path
    report: asyncio.Future[RunReport]
    finished: Finish
    undecided: set[int]
    dropped: list[int] = field(default_factory=list)
    abandoned: bool = False

    def take_dropped(self) -> list[int]:
        if self.abandoned:
            raise _Abandoned
        taken, self.dropped = self.dropped, []
        return taken


@dataclass(slots=True, eq=False)
class _Place:
    index: int
    inbox: queue.SimpleQueue[_Run | int | None] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None
    running: _Run | None = None


class ThreadRunner:
    """One thread for each of `backends` (a device each), which computes batches of `Job`s.

    `restarts` counts the threads that hung and were replaced.
    """

    def __init__(
        self,
        model: ModelConfiguration,
        folder_of: Callable[[int], Path],
        backends: Sequence[Backend],
        *,
        memory: MemoryBound | None = None,
        readout: OutputLayer | None = None,
    ) -> None:
        self._model, self._folder_of, self._readout = model, folder_of, readout
        self._backends = tuple(backends)
        self._memory = memory or MemoryBound(model)
        self._places: list[_Place] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.restarts = 0

    @property
    def workers(self) -> int:
        """Number of batches that can run at once."""
        return len(self._backends)

    async def start(self) -> None:
        """Start the threads."""
        if self._places:
            return
        self._loop = asyncio.get_running_loop()
        self._places = [self._spawn(index) for index in range(len(self._backends))]

    async def stop(self) -> None:
        """End the threads after their slices under way. Runs under way fail with `WorkerLost`."""
        places, self._places = self._places, []
        for place in places:
            if place.running is not None:
                self._abandon(place.running, WorkerLost("the compute thread was stopped"))
            place.inbox.put(None)
        for place in places:
            if place.thread is not None:
                await asyncio.to_thread(place.thread.join, _JOIN_SECONDS)

    async def run(self, entries: Sequence[Entry], finished: Finish, *, hung_after: float) -> RunReport:
        """Compute one batch on a free thread (see `BatchRunner`). Raises OutOfMemory, WorkerLost, or the batch's error."""
        loop = asyncio.get_running_loop()
        place = next((place for place in self._places if place.running is None), None)
        if place is None:
            raise WorkerLost("no compute thread is free")
        jobs = [entry.payload for entry in entries]
        tasks = [Task(e.id, j.tree, j.depth, j.output, e.seconds) for e, j in zip(entries, jobs, strict=True) if isinstance(j, Job)]
        size, layers = max((job.esn_size, job.depth) for job in jobs if isinstance(job, Job))
        run = _Run(tasks, size, layers, self._folder_of(size), loop.create_future(), finished, {entry.id for entry in entries})
        place.running = run
        place.inbox.put(run)
        timer = loop.call_later(hung_after, self._hung, place, run, hung_after)
        try:
            return await run.report
        finally:
            timer.cancel()
            if place.running is run:  # the caller was cancelled: the thread leaves the run at the next slice
                run.abandoned = True
                place.running = None

    def drop(self, ids: Collection[int]) -> bool:
        """Leave these out from the next slice on."""
        found = False
        for place in self._places:
            if place.running is not None and (left := place.running.undecided.intersection(ids)):
                place.running.dropped = [*place.running.dropped, *left]
                found = True
        return found

    def forget(self, esn_size: int) -> None:
        """The weights of this size were evicted: the threads let go of them after the run under way."""
        for place in self._places:
            place.inbox.put(esn_size)

    def byte_cap(self) -> int | None:
        """Bytes that one batch may take now."""
        return self._memory.cap(max(1, sum(place.running is None for place in self._places)))

    def bytes_of(self, works: Sequence[Work]) -> int:
        """Bytes that a batch of these takes."""
        return self._memory.bytes_of(works)

    # On the event loop.

    def _spawn(self, index: int) -> _Place:
        place = _Place(index)
        place.thread = threading.Thread(target=self._serve, args=(place, self._backends[index]), name=f"dtesn-compute-{index}", daemon=True)
        place.thread.start()
        return place

    def _hung(self, place: _Place, run: _Run, after: float) -> None:
        if place.running is run and place in self._places:
            self._places[self._places.index(place)] = self._spawn(place.index)
            self.restarts += 1
            place.running = None
            place.inbox.put(None)
            self._abandon(run, WorkerHung(f"the compute thread had not finished after {after:.1f} s and was abandoned"))

    def _abandon(self, run: _Run, error: WorkerLost) -> None:
        run.abandoned = True
        if not run.report.done():
            run.report.set_exception(error)

    def _results(self, run: _Run, done: Finished) -> None:
        for identity, value in done:
            if not run.abandoned and identity in run.undecided:
                run.undecided.discard(identity)
                run.finished(identity, error_of(fault_of(value)) if isinstance(value, Exception) else value)

    def _ended(self, place: _Place, run: _Run, last: Finished, outcome: Report | Exception) -> None:
        if place.running is run:
            place.running = None
        # The run's end is announced before its last results: the next batch leaves before these are encoded.
        if run.report.done():
            return
        if isinstance(outcome, Exception):
            run.report.set_exception(outcome)
        else:
            run.report.set_result(run_report(outcome, place.index))
        self._results(run, last)

    # In the thread.

    def _serve(self, place: _Place, backend: Backend) -> None:
        backend.use()
        reservoirs = Reservoirs(self._model, backend)
        while True:
            message = place.inbox.get()
            if message is None:
                return
            if isinstance(message, int):
                reservoirs.forget(message)
                continue
            try:
                reservoir = reservoirs.get(message.esn_size, message.layers, message.folder)
                emit = self._emitter(message)
                last, report = drive(reservoir, message.tasks, message.take_dropped, emit, lambda: 0, readout=self._readout)
                self._tell(self._ended, place, message, last, report)
            except _Abandoned:
                continue
            except Exception as error:  # noqa: BLE001 - the batch failed as a whole: told as a worker process would tell it
                self._tell(self._ended, place, message, (), error_of(fault_of(error)))

    def _emitter(self, run: _Run) -> Callable[[Finished], None]:
        return lambda done: self._tell(self._results, run, done)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(callback, *arguments)
            except RuntimeError:  # closed in between: nobody is left to be told
                return
