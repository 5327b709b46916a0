"""Devices that are bound by launches, as a GPU is with small batches: T = batch + step * longest + node * nodes, in virtual time.

What counts is whether the decisions, from a cold start, find out that more items take about as long.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from bench.virtual import virtual
from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import Entry, RunReport, Work
from dtesn_sidecar.batching.sizing import longest_batch
from dtesn_sidecar.errors import DTESNError

ERROR = 0.05


@dataclass
class Device:
    """Seconds per batch, per step of its longest item and per node of all. Remembers its batches: when they ended, their items."""

    batch: float = 0.0
    step: float = 0.0
    node: float = 0.0
    noise: float = 0.0
    workers: int = 1
    ends: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def seconds(self, works: Sequence[Work]) -> float:
        """One batch of these, without noise."""
        return self.batch + self.step * max(work.levels for work in works) + self.node * sum(work.nodes for work in works)

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def run(self, entries: Sequence[Entry], finished: Callable[[int, object], None], *, hung_after: float) -> RunReport:
        """Take as long as such a batch takes; `noise` is the standard deviation of the logarithm of a factor."""
        works = [entry.work for entry in entries]
        seconds = self.seconds(works) * self.rng.lognormvariate(0.0, self.noise)
        await asyncio.sleep(seconds)
        self.ends.append(asyncio.get_running_loop().time())
        self.sizes.append(len(entries))
        for entry in entries:
            finished(entry.id, None)
        return RunReport(seconds, sum(work.nodes for work in works), max(work.levels for work in works), complete=True)

    def drop(self, ids: Collection[int]) -> bool:
        """Once it runs, nothing is left out."""
        return False

    def byte_cap(self) -> int | None:
        """No bound."""
        return None

    def bytes_of(self, works: Sequence[Work]) -> int:
        """Asked for by nobody where there is no bound."""
        return sum(work.nodes for work in works)

    def rate(self, after: int, before: int) -> float:
        """Items per second of the batches after so many, up to so many."""
        return sum(self.sizes[after:before]) / (self.ends[before - 1] - self.ends[after - 1])


def best_size(device: Device, work: Work, *, largest: int, longest: float) -> int:
    """The best fixed number of such items: the most that a batch may compute in, less what predictions err by."""
    alone, marginal = device.seconds([work]), device.node * work.nodes
    allowed = longest_batch(longest, fixed=alone - marginal, marginal=marginal, split_seen=True)
    return max(size for size in range(1, largest + 1) if size == 1 or device.seconds([work] * size) <= (1.0 - ERROR) * allowed)


async def saturated(
    device: Device,
    draw: Callable[[random.Random], Work],
    *,
    clients: int,
    batches: int,
    within: float = 30.0,
    seed: int = 1,
    largest: int = 32,
) -> int:
    """So many clients, each asking again as soon as it is answered, from a cold start until `batches` have run; how many were refused.

    Who is refused asks again after five seconds.
    """
    rng = random.Random(seed)
    config = BatchConfiguration(max_batch_size=largest)
    manager: DynamicBatchManager = DynamicBatchManager(config, lambda: manager.busy_share(), device, cost=_work, rng=random.Random(seed))
    refused = 0

    async def client() -> None:
        nonlocal refused
        while len(device.sizes) < batches:
            try:
                await manager.submit(draw(rng), timeout=within)
            except DTESNError:
                refused += 1
                await asyncio.sleep(5.0)
            await asyncio.sleep(rng.uniform(0.0002, 0.001))

    async with manager:
        await asyncio.gather(*(client() for _ in range(clients)))
    return refused


@dataclass(frozen=True)
class ColdStart:
    """How a saturated device fared from a cold start. `batches` and `seconds` until the first batch of 90 % of the best rate."""

    device: str
    best_size: int
    best_rate: float
    rate: float
    batches: int
    seconds: float
    refused: int
    sizes: list[int]

    @property
    def share(self) -> float:
        """Of the best rate."""
        return self.rate / self.best_rate


FOUND_WITHIN = 25
"""Batches from the cold start after which the rate counts."""

DEVICES: dict[str, tuple[Device, Work]] = {
    "500 + 0.05 n": (Device(batch=0.5, node=0.00005), Work()),
    "240 + 0.4 n": (Device(batch=0.24, node=0.0004), Work()),
    "200 + 10 n": (Device(batch=0.2, node=0.01), Work()),
    "1 a step of 500 + 0.002 a node": (Device(step=0.001, node=2e-6), Work(nodes=500, levels=500)),
    "20 + 0.5 n": (Device(batch=0.02, node=0.0005), Work()),
}


def cold_start(name: str, *, largest: int = 128, batches: int = 60) -> ColdStart:
    """One of `DEVICES`, named by milliseconds, with three times as many clients as the largest batch holds."""
    device, work = DEVICES[name]
    device = Device(device.batch, device.step, device.node)
    refused = virtual(saturated(device, lambda rng: work, clients=3 * largest, batches=batches, largest=largest))
    size = best_size(device, work, largest=largest, longest=BatchConfiguration().max_batch_seconds)
    best = size / device.seconds([work] * size)
    reached = [index for index, held in enumerate(device.sizes) if held / device.seconds([work] * held) >= 0.9 * best]
    found = reached[0] if reached else len(device.sizes) - 1
    began = device.ends[0] - device.seconds([work] * device.sizes[0])
    kept = device.sizes[:batches]
    return ColdStart(name, size, best, device.rate(FOUND_WITHIN, batches), found + 1, device.ends[found] - began, refused, kept)


def _work(item: object) -> Work:
    assert isinstance(item, Work)
    return item
