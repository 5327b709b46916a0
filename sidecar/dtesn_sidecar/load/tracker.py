"""The load of this server as one number: polls the providers in the background and combines what is fresh.

A request never waits for a provider. What a reading is worth is `readings.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

from dtesn_sidecar.load.readings import LoadProvider, LoadSource, NoData, Reading, SourceState, checked, combined, in_force
from dtesn_sidecar.load.threads import in_thread


class ServerLoadTracker:
    """Combines weighted load providers: sum(w v) / sum(w) over those with fresh data.

    `get_current_load` is what a `DynamicBatchManager` takes as its `load_tracker`. Polling starts with its first
    call inside a running event loop and ends with `aclose()` or the end of `async with`.
    `clock` gives monotonic seconds; `Reading.at` is on it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pollers: dict[str, _Poller] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def add_load_provider(
        self,
        provider: LoadProvider,
        weight: float = 1.0,
        name: str | None = None,
        interval: float = 1.0,
        *,
        saturating: bool = False,
        stale_after: float | None = None,
        hold: float = 0.0,
    ) -> None:
        """Add a plain or async function that answers a number in [0, 1], or None for no data.

        `weight` 0 switches it off; `name` (default: the function's) is its label in metrics; `interval` seconds
        between polls; `saturating`: it counts in full where it is above the mean; a reading older than
        `stale_after` seconds (default: three intervals, at least 3 s) is no data; after a failure the last
        reading is held until it is `hold` seconds old. Raises ValueError for a name that is taken or a bad number.
        """
        label = name or str(getattr(provider, "__name__", type(provider).__name__))
        if label in self._pollers:
            if name is not None:
                raise ValueError(f"a load provider named {name!r} is there already")
            label = next(numbered for n in range(2, len(self._pollers) + 3) if (numbered := f"{label}-{n}") not in self._pollers)
        fresh = max(3.0, 3 * interval) if stale_after is None else stale_after
        self._add(LoadSource(label, provider, weight, interval, saturating, fresh, hold))

    def configure(self, sources: Iterable[LoadSource]) -> None:
        """Replace all providers. A source of the same name and equal settings goes on with its last reading."""
        before, self._pollers = self._pollers, {}
        for source in sources:
            known = before.get(source.name)
            if known is not None and source.settings is not None and known.source.settings == source.settings:
                self._pollers[source.name] = before.pop(source.name)
            else:
                self._add(source)
        for poller in before.values():
            poller.cancel()

    def get_current_load(self) -> float | None:
        """The combined load in [0, 1], or None where no provider has fresh data. Never waits."""
        if not self._closed:
            self._ensure_polling()
        return combined(self.readings())

    def readings(self) -> list[SourceState]:
        """Every source that is on, with what it counts for now."""
        now = self._clock()
        return [poller.state(now) for poller in self._pollers.values() if poller.source.weight > 0]

    async def aclose(self) -> None:
        """End the polling. Idempotent. A plain function that is stuck in its thread is left behind."""
        self._closed = True
        tasks = [task for poller in self._pollers.values() if (task := poller.cancel()) is not None]
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        self._closed = False
        self._ensure_polling()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def _add(self, source: LoadSource) -> None:
        self._pollers[source.name] = poller = _Poller(source, self._clock)
        if self._loop is not None and not self._closed and self._loop.is_running():
            poller.start(self._loop)

    def _ensure_polling(self) -> None:
        if self._loop is not None and self._loop.is_running():
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # called outside a loop: there is nowhere to poll yet, which is no error
            return
        for poller in self._pollers.values():
            poller.start(self._loop)


class _Poller:
    """One source, its last reading and the task that renews it."""

    def __init__(self, source: LoadSource, clock: Callable[[], float]) -> None:
        self.source = source
        self._clock = clock
        self._last: Reading | None = None
        self._failure: NoData | None = None
        self._task: asyncio.Task[None] | None = None

    def state(self, now: float) -> SourceState:
        age = None if self._last is None else max(0.0, now - self._last.at)
        return SourceState(
            self.source.name, self.source.weight, self.source.saturating, in_force(self.source, self._last, self._failure, now), age
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.source.weight > 0:
            self._task = loop.create_task(self._poll(), name=f"load provider {self.source.name}")

    def cancel(self) -> asyncio.Task[None] | None:
        task, self._task = self._task, None
        if task is not None and not task.get_loop().is_closed():
            task.cancel()
            return task
        return None

    async def _poll(self) -> None:
        while True:
            started = self._clock()
            answer = await _ask(self.source.provider)
            match checked(answer, self._clock()):
                case Reading() as reading:
                    self._last, self._failure = reading, None
                case NoData() as failure:
                    self._failure = failure
            await asyncio.sleep(max(0.0, self.source.interval - (self._clock() - started)))


async def _ask(provider: LoadProvider) -> object:
    """The provider's answer; whatever it raises is no data, with its text."""
    try:
        plain = not inspect.iscoroutinefunction(provider) and not inspect.iscoroutinefunction(getattr(provider, "__call__", None))  # noqa: B004
        answer = await in_thread(provider) if plain else provider()
        return await answer if inspect.isawaitable(answer) else answer
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        return NoData("CancelledError")  # raised by the provider itself: not our own end
    except Exception as error:  # noqa: BLE001 - any failure of a provider is no data; the reason is shown in metrics and /config
        return NoData(f"{type(error).__name__}: {error}"[:500])
