"""Worker processes as a `BatchRunner`: each is one core and computes one batch at a time.

Decisions (which batch, how large, what after a failure) are the manager's. Here workers are started, given a batch,
read, killed when they hang, and started again with a growing pause when they keep dying.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dtesn_sidecar.batching.protocols import Entry, RunReport, Work, WorkerHung
from dtesn_sidecar.compute.child import COMMAND, Child
from dtesn_sidecar.compute.frames import Bytes, FrameTooLarge, split
from dtesn_sidecar.compute.job import Job
from dtesn_sidecar.compute.memory import MemoryBound
from dtesn_sidecar.compute.messages import Drop, Forget, Item, Ready, Results, Run, Setup, ToParent, encode, error_of, run_report
from dtesn_sidecar.compute.process import WORKER_NICE
from dtesn_sidecar.errors import OutOfMemory, WorkerLost

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_sidecar.model.readout.value import OutputLayer

_PAUSES: Final = (0.0, 0.1, 0.5, 2.0, 5.0)  # seconds before a start, by the deaths since a run last succeeded
_START_ATTEMPTS: Final = 3

Finish = Callable[[int, object], None]


@dataclass(slots=True)
class _Running:
    number: int
    report: asyncio.Future[RunReport]
    finished: Finish
    undecided: set[int]
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Place:
    """One worker's place, whichever process holds it now."""

    index: int
    child: Child | None = None
    ready: bool = False
    running: _Running | None = None
    deaths: int = 0

    @property
    def free(self) -> bool:
        return self.ready and self.running is None


class ProcessPool:
    """`workers` child processes that compute batches of `Job`s with the weights in `folder_of(esn_size)`.

    `command` starts a child (tests pass one that misbehaves). `restarts` counts the workers that were replaced.
    """

    def __init__(
        self,
        model: ModelConfiguration,
        folder_of: Callable[[int], Path],
        workers: int,
        *,
        memory: MemoryBound | None = None,
        command: Sequence[str] = COMMAND,
        nice: int = WORKER_NICE,
        readout: OutputLayer | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        self._setup = _setup(model, readout)
        self._folder_of = folder_of
        self._memory = memory or MemoryBound(model)
        self._command, self._nice = tuple(command), nice
        self._places = [_Place(index) for index in range(workers)]
        self._numbers = itertools.count(1)
        self._waiters: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Future[None]] = set()
        self._reaping: set[asyncio.Future[int]] = set()
        self._started = False
        self.restarts = 0

    @property
    def workers(self) -> int:
        """Number of batches that can run at once."""
        return len(self._places)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are alive."""
        return [place.child.pid for place in self._places if place.child is not None and place.child.alive]

    async def start(self) -> None:
        """Start the workers; returns when the first is ready. Raises WorkerLost where they die instead, again and again."""
        if self._started:
            return
        self._started = True
        for place in self._places:
            self._spawn(place)
        try:
            while not any(place.ready for place in self._places):
                if all(place.deaths >= _START_ATTEMPTS for place in self._places):
                    raise WorkerLost("the compute workers end as soon as they start; their own message is on standard error")
                await self._changed()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Kill the workers and wait until they are reaped. Runs under way fail with `WorkerLost`."""
        self._started = False
        for place in self._places:
            self._bury(place)
            self._vacate(place, WorkerLost("the compute workers were stopped"))
        for task in self._tasks:
            task.cancel()
        self._wake()
        await asyncio.gather(*self._tasks, *self._reaping, return_exceptions=True)

    async def run(self, entries: Sequence[Entry], finished: Finish, *, hung_after: float) -> RunReport:
        """Compute one batch on a free worker (see `BatchRunner`). Raises OutOfMemory, WorkerLost, or the batch's error."""
        loop = asyncio.get_running_loop()
        place = await self._free_place(loop.time() + hung_after)
        child = place.child
        assert child is not None  # noqa: S101 - a free place has a child
        running = _Running(next(self._numbers), loop.create_future(), finished, {entry.id for entry in entries})
        message, buffers = self._message(running.number, entries)
        try:
            child.send(message, buffers)
        except FrameTooLarge as error:
            raise OutOfMemory(str(error)) from error
        place.running = running
        running.timer = loop.call_later(hung_after, self._hung, place, running, hung_after)
        try:
            return await running.report
        finally:
            if place.running is running:  # the caller was cancelled: nobody waits for any of it
                running.finished = _ignore
                self._drop_from(place, running.undecided)

    def drop(self, ids: Collection[int]) -> bool:
        """Leave these out from the next slice on."""
        found = False
        for place in self._places:
            if place.running is not None and (left := place.running.undecided.intersection(ids)):
                self._drop_from(place, left)
                found = True
        return found

    def forget(self, esn_size: int) -> None:
        """The weights of this size were evicted: the workers let go of them."""
        for place in self._places:
            if place.child is not None:
                place.child.send(Forget(esn_size))

    def byte_cap(self) -> int | None:
        """Bytes that one batch may take now: an idle worker's share of 0.8 x what is free."""
        idle = sum(place.running is None for place in self._places)
        return self._memory.cap(max(1, idle))

    def bytes_of(self, works: Sequence[Work]) -> int:
        """Bytes that a batch of these takes."""
        return self._memory.bytes_of(works)

    # Starting and losing workers.

    def _spawn(self, place: _Place) -> None:
        place.child = Child(
            lambda message, body: self._told(place, message, body),
            lambda: self._lost(place, WorkerLost("the compute worker died")),
            nice=self._nice,
            command=self._command,
        )
        place.child.send(*self._setup)

    def _lost(self, place: _Place, error: WorkerLost) -> None:
        place.deaths += 1
        self.restarts += 1
        self._bury(place)
        self._vacate(place, error)
        self._wake()
        task = asyncio.ensure_future(self._replace(place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _bury(self, place: _Place) -> None:
        if place.child is not None:
            reaping = asyncio.ensure_future(place.child.gone())
            place.child.kill()
            place.child = None
            self._reaping.add(reaping)
            reaping.add_done_callback(self._reaping.discard)

    async def _replace(self, place: _Place) -> None:
        while place.child is None:
            await asyncio.sleep(_PAUSES[min(place.deaths, len(_PAUSES)) - 1])
            if not self._started:
                return
            try:
                self._spawn(place)
            except OSError:  # no memory or no process left for now: again after a longer pause
                place.deaths += 1

    def _vacate(self, place: _Place, error: WorkerLost) -> None:
        running, place.running, place.ready = place.running, None, False
        if running is not None:
            _end_timer(running)
            if not running.report.done():
                running.report.set_exception(error)

    def _hung(self, place: _Place, running: _Running, after: float) -> None:
        if place.running is running:
            self._lost(place, WorkerHung(f"the compute worker had not finished after {after:.1f} s and was killed"))

    # Places that are free.

    async def _free_place(self, until: float) -> _Place:
        while True:
            if not self._started:
                raise WorkerLost("the compute workers are stopped")
            for place in self._places:
                if place.free:
                    return place
            try:
                async with asyncio.timeout_at(until):
                    await self._changed()
            except TimeoutError:
                raise WorkerLost("no compute worker became ready") from None

    async def _changed(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Messages.

    def _message(self, number: int, entries: Sequence[Entry]) -> tuple[Run, list[Bytes]]:
        items, buffers, layers, esn_size = [], list[Bytes](), 1, 0
        for entry in entries:
            job = entry.payload
            if not isinstance(job, Job):
                raise TypeError(f"a worker computes Jobs, not {type(job).__name__}")
            header, parts = job.tree.pack()
            items.append(Item(entry.id, job.depth, job.output, header, tuple(len(part) for part in parts), entry.seconds))
            buffers.extend(parts)
            layers, esn_size = max(layers, job.depth), job.esn_size
        return Run(number, esn_size, str(self._folder_of(esn_size)), layers, tuple(items)), buffers

    def _drop_from(self, place: _Place, ids: Collection[int]) -> None:
        if place.child is not None:
            place.child.send(Drop(tuple(ids)))

    def _told(self, place: _Place, message: ToParent, body: memoryview) -> None:
        if isinstance(message, Ready):
            place.ready = True
            self._wake()
        elif isinstance(message, Results) and place.running is not None and place.running.number == message.run:
            self._results(place, place.running, message, body)

    def _results(self, place: _Place, running: _Running, message: Results, body: memoryview) -> None:
        report, failure = message.report, message.failure
        if report is not None or failure is not None:
            # The run's end is announced before its last results: the next batch leaves before these are encoded.
            place.running = None
            place.deaths = 0
            _end_timer(running)
            self._wake()
            if running.report.done():  # the caller was cancelled
                pass
            elif failure is not None:
                running.report.set_exception(error_of(failure))
            elif report is not None:
                running.report.set_result(run_report(report, place.index))
        buffers = split(body, message.sizes)
        for done in message.done:
            value: object
            if done.shape is not None:
                value = np.frombuffer(next(buffers), dtype=np.float32).reshape(done.shape)
            else:
                value = error_of(done.fault) if done.fault is not None else WorkerLost("an item ended without a result")
            if done.id in running.undecided:
                running.undecided.discard(done.id)
                running.finished(done.id, value)


def _setup(model: ModelConfiguration, readout: OutputLayer | None) -> tuple[Setup, list[Bytes]]:
    raw = msgspec.Raw(encode(model))
    if readout is None:
        return Setup(raw), []
    arrays = [np.ascontiguousarray(array) for array in (readout.weights, readout.intercept)]
    return Setup(raw, (readout.depth, readout.esn_size, len(readout.intercept))), [array.data.cast("B") for array in arrays]


def _end_timer(running: _Running) -> None:
    if running.timer is not None:
        running.timer.cancel()


def _ignore(_identity: int, _value: object) -> None:
    """Take a result that nobody waits for."""
