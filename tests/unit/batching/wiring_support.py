"""A runner in virtual time, and an observer, that write down what the manager asked of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import BatchDone, Bisected, Entry, Refused, RequestDone, RunReport, SilentObserver, Work
from dtesn_sidecar.errors import DeadlineExceeded

BYTES_PER_NODE = 100


@dataclass(frozen=True)
class Ask:
    """A request. `seconds`: what it takes on its own account, whatever the device usually takes."""

    name: object = "any"
    nodes: int = 1
    levels: int = 1
    shape: Hashable = None
    charge: int | None = None
    seconds: float | None = None


def work_of(payload: object) -> Work:
    assert isinstance(payload, Ask)
    return Work(nodes=payload.nodes, levels=payload.levels, shape=payload.shape, model=payload.shape, charge=payload.charge)


@dataclass
class Run:
    """One call of `run`."""

    number: int
    began: float
    asks: list[Ask]
    hung_after: float
    beside: int
    ended: float | None = None

    @property
    def names(self) -> list[object]:
        return [ask.name for ask in self.asks]


@dataclass
class Runner:
    """Takes `fixed` seconds per level and `marginal` per node of whom it still computes; what is dropped leaves after `slice` seconds.

    `fails(asks)` is the exception that a batch ends with (None: none), `result(ask)` what an item gets, and
    `slowdown(running)` how much longer a run takes with that many under way.
    """

    workers: int = 1
    fixed: float = 1.0
    marginal: float = 0.0
    cap: int | None = None
    fails: Callable[[list[Ask]], Exception | None] = lambda asks: None
    result: Callable[[Ask], object] = lambda ask: ("result of", ask.name)
    slowdown: Callable[[int], float] = lambda running: 1.0
    report_complete: bool = True
    slice: float = 0.0
    runs: list[Run] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)
    running: int = 0
    most_running: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _woken: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    _under_way: dict[int, tuple[Sequence[Entry], Callable[[int, object], None]]] = field(default_factory=dict)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def seconds(self, asks: Sequence[Ask]) -> float:
        own = max((ask.seconds or 0.0 for ask in asks), default=0.0)
        return own or self.fixed * max(ask.levels for ask in asks) + self.marginal * sum(ask.nodes for ask in asks)

    async def run(self, entries: Sequence[Entry], finished: Callable[[int, object], None], *, hung_after: float) -> RunReport:
        asks = [entry.payload for entry in entries if isinstance(entry.payload, Ask)]
        loop = asyncio.get_running_loop()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        run = Run(next(self._numbers), loop.time(), asks, hung_after, self.running)
        self.runs.append(run)
        self._under_way[run.number] = entries, finished
        try:
            slower, members = self.slowdown(self.running), asks
            while members and (left := run.began + self.seconds(members) * slower - loop.time()) > 1e-9:
                self._woken[run.number] = woken = loop.create_future()
                if (await asyncio.wait([woken], timeout=left))[0]:
                    await asyncio.sleep(self.slice)
                members = [ask for entry, ask in zip(entries, asks, strict=True) if entry.id not in self.dropped]
            if (error := self.fails(asks)) is not None:
                raise error
            here = [entry for entry in entries if entry.id not in self.dropped]
            for entry, ask in zip(entries, asks, strict=True):
                if entry.id not in self.dropped:
                    finished(entry.id, self.result(ask))
            complete = self.report_complete and len(here) == len(entries)
            return RunReport(loop.time() - run.began, sum(a.nodes for a in asks), max(a.levels for a in asks), complete=complete)
        finally:
            self.running -= 1
            self._woken.pop(run.number, None)
            del self._under_way[run.number]
            run.ended = loop.time()

    def leave_out(self, name: object) -> None:
        """As a worker does that sees between two slices that this one can no longer end in time."""
        for entries, finished in self._under_way.values():
            for entry in entries:
                if isinstance(entry.payload, Ask) and entry.payload.name == name:
                    finished(entry.id, DeadlineExceeded("left out"))
                    self.drop([entry.id])

    def drop(self, ids: Collection[int]) -> bool:
        self.dropped.update(ids)
        for woken in self._woken.values():
            if not woken.done():
                woken.set_result(None)
        return True

    def byte_cap(self) -> int | None:
        return self.cap

    def bytes_of(self, works: Sequence[Work]) -> int:
        return BYTES_PER_NODE * sum(work.nodes for work in works)


class Seen(SilentObserver):
    """What the observer was told."""

    def __init__(self) -> None:
        self.refusals: list[Refused] = []
        self.missed: list[str] = []
        self.batches: list[BatchDone] = []
        self.bisections: list[Bisected] = []
        self.done: list[RequestDone] = []

    def refused(self, event: Refused) -> None:
        self.refusals.append(event)

    def deadline_missed(self, where: str) -> None:
        self.missed.append(where)

    def batch_done(self, event: BatchDone) -> None:
        self.batches.append(event)

    def bisected(self, event: Bisected) -> None:
        self.bisections.append(event)

    def request_done(self, event: RequestDone) -> None:
        self.done.append(event)


def managed(runner: Runner, seen: Seen | None = None, load: Any = None, /, *, own: dict[str, Any] | None = None, **config: Any) -> Any:
    """A manager over the runner; `config` are fields of `BatchConfiguration`, `own` further arguments of the manager."""
    # One request alone may take what the test says, and batches may be as long: bounds are tested where they are set.
    config = {"max_batch_seconds": 60.0, "max_request_seconds": 1000.0} | config
    return DynamicBatchManager(BatchConfiguration(**config), load, runner, cost=work_of, observer=seen, **(own or {}))


@dataclass(frozen=True)
class Outcome:
    """What a request ended with, and when, in seconds from its submission."""

    value: object
    seconds: float


async def ask(manager: Any, what: Ask, **options: Any) -> Outcome:
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        value: object = await manager.submit(what, **options)
    except Exception as error:  # noqa: BLE001 - what it ended with, for the test to judge
        value = error
    return Outcome(value, loop.time() - began)


def asking(manager: Any, what: Ask, **options: Any) -> asyncio.Task[Outcome]:
    return asyncio.create_task(ask(manager, what, **options))


async def turn() -> None:
    """Let every task take its first step, and a millisecond pass."""
    await asyncio.sleep(0.001)


async def teach(manager: Any, runner: Runner, *, rounds: int = 1, most_nodes: int = 1) -> None:
    """Let the manager measure what requests alone take, and forget the runs."""
    for _ in range(rounds):
        for nodes in range(1, most_nodes + 1):
            await manager.submit(Ask(nodes=nodes), timeout=300)
    runner.runs.clear()
    await turn()
