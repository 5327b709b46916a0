"""What `bench.simulated` compares, all on one simulated device: our manager, and rivals that re-implement others' policies."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.performance import WindowPerformance

CAP = 64
FIXED, MARGINAL = 0.020, 0.0005
CAPACITY = CAP / (FIXED + MARGINAL * CAP)


class ShedError(Exception):
    """A rival gave the request up."""


class Server(Protocol):
    """What the load generator drives."""

    async def submit(self, item: object, within: float) -> object:
        """The result, or DTESNError or ShedError."""
        ...

    async def __aenter__(self) -> Server: ...

    async def __aexit__(self, *error: object) -> None: ...


async def device(items: list[Any]) -> list[Any]:
    """The simulated device."""
    await asyncio.sleep(FIXED + MARGINAL * len(items))
    return items


class Ours:
    """DynamicBatchManager with its defaults but for the cap and what `settings` say; its own busy share is the load."""

    def __init__(self, **settings: Any) -> None:
        self.performance = WindowPerformance(100_000)
        self.manager: DynamicBatchManager = DynamicBatchManager(
            BatchConfiguration(max_batch_size=CAP, **settings),
            self.busy_share,
            device,
            performance=self.performance,
            rng=random.Random(1),
        )

    def busy_share(self) -> float:
        """The load."""
        return self.manager.busy_share()

    def forget(self) -> None:
        """End of the warm-up."""
        self.performance.resize(0)
        self.performance.resize(100_000)

    def utilization(self) -> float | None:
        """Sum of items over sum of places since then."""
        return self.manager.snapshot().batch_utilization

    async def submit(self, item: object, within: float) -> object:
        """Through the manager."""
        return await self.manager.submit(item, timeout=within)

    async def __aenter__(self) -> Server:
        await self.manager.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.manager.stop(drain=False)


class Rival:
    """A queue, one device, and a rule (`ready`) for when it takes what is queued."""

    queue_max = 1024

    def __init__(self) -> None:
        self.queue: deque[tuple[float, float, object, asyncio.Future[object]]] = deque()
        self.changed = asyncio.Event()

    async def submit(self, item: object, within: float) -> object:
        """Queue it; full is full."""
        if len(self.queue) >= self.queue_max:
            raise ShedError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        now = loop.time()
        self.queue.append((now, now + within, item, future))
        self.changed.set()
        return await future

    async def __aenter__(self) -> Server:
        self.task = asyncio.get_running_loop().create_task(self.loop())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()

    def ready(self, now: float) -> float:
        """When to take what is queued: `now`, or later."""
        return now

    def shed(self, now: float) -> None:
        """Give up what has expired."""
        while self.queue and self.queue[0][1] <= now:
            *_, future = self.queue.popleft()
            if not future.done():
                future.set_exception(ShedError())

    def ran(self, items: int, seconds: float) -> None:
        """A batch took that long."""

    async def loop(self) -> None:
        """One batch after the other."""
        clock = asyncio.get_running_loop().time
        while True:
            self.shed(clock())
            if not self.queue:
                self.changed.clear()
                await self.changed.wait()
                continue
            until = self.ready(clock())
            if until > clock() and len(self.queue) < CAP:
                self.changed.clear()
                try:
                    async with asyncio.timeout(until - clock()):
                        await self.changed.wait()
                except TimeoutError:
                    pass
                continue
            batch = [self.queue.popleft() for _ in range(min(CAP, len(self.queue)))]
            started = clock()
            results = await device([item for _, _, item, _ in batch])
            self.ran(len(batch), clock() - started)
            for (*_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


class PlainJustInTime(Rival):
    """Takes whatever is queued whenever the device is free."""


class FixedWindow(Rival):
    """Triton-like: full, or the oldest has waited `delay`."""

    delay = 0.005

    def ready(self, now: float) -> float:
        """When the oldest has waited."""
        return self.queue[0][0] + self.delay


class BentoLike(Rival):
    """BentoML-like: fits T = a n + b, waits while n (gap + a) <= typical wait, drops what would pass the latency bound."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.wait = 0.002, 0.025, 0.01
        self.samples: deque[tuple[int, float]] = deque(maxlen=200)

    def shed(self, now: float) -> None:
        """Give up what would pass the latency bound."""
        super().shed(now)
        while self.queue and len(self.queue) > 1:
            arrived, deadline, _, future = self.queue[0]
            if now - arrived + self.a * len(self.queue) + self.b < deadline - arrived:
                return
            self.queue.popleft()
            if not future.done():
                future.set_exception(ShedError())

    def ready(self, now: float) -> float:
        """In a millisecond, or now."""
        gap = now - self.queue[-1][0]
        if len(self.queue) * (gap + 0.001 + self.a) <= self.wait:
            return now + 0.001
        return now

    def ran(self, items: int, seconds: float) -> None:
        """Fit again."""
        self.samples.append((items, seconds))
        self.wait = 0.95 * self.wait + 0.05 * min(seconds, 0.02)
        count = len(self.samples)
        mean_n, mean_t = sum(n for n, _ in self.samples) / count, sum(t for _, t in self.samples) / count
        spread = sum((n - mean_n) ** 2 for n, _ in self.samples)
        if count >= 10 and spread > 0:
            self.a = max(1e-6, sum((n - mean_n) * (t - mean_t) for n, t in self.samples) / spread)
            self.b = max(1e-6, mean_t - self.a * mean_n)


SERVERS: dict[str, Callable[[], Server]] = {
    "load_aware": Ours,
    "just_in_time": lambda: Ours(strategy="just_in_time"),
    "fixed": lambda: Ours(strategy="fixed"),
    "plain just-in-time": PlainJustInTime,
    "fixed window": FixedWindow,
    "BentoML-like": BentoLike,
}
OURS = ("load_aware", "just_in_time", "fixed")
