"""The weights on disk: which sizes are built, which wait to be, and which are evicted.

The configured model is built at the start and kept. Other sizes, and layers beyond the configured depth, are built when
asked for: one at a time, in another process, with a short queue, within `max_model_bytes`; the least recently used
leaves for them, never one that a request holds. How a layer is drawn is in `building`.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtesn_sidecar.compute.folder import PrivateFolder
from dtesn_sidecar.errors import BuildQueueFull, DeadlineExceeded, InvalidInput, WorkerLost
from dtesn_sidecar.model.weights import model_bytes

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration

MAX_QUEUED: Final = 4
_SECONDS_PER_CUBE: Final = 6.0 / 4096**3  # of building a layer, until one was measured: QR of N = 4,096 takes 6 s

BuildLayer = Callable[[int, int, Path], Awaitable[float]]
"""(esn_size, layer, folder) -> seconds; writes the files of that layer."""


@dataclass(slots=True)
class _Size:
    """One size: `layers` are built, the first `kept` stay for good, `holds` requests use it."""

    kept: int = 0
    layers: int = 0
    holds: int = 0
    waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)


class WeightStore:
    """Weights by size. `forget` is told when a size is evicted, so that workers let go of its files.

    Sizes are kept in the order of their last use, the least recent first.
    """

    def __init__(
        self,
        model: ModelConfiguration,
        build: BuildLayer,
        *,
        parent: Path | None = None,
        forget: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._model, self._build, self._parent, self.forget = model, build, parent, forget
        self._folder: PrivateFolder | None = None
        self._sizes: dict[int, _Size] = {}
        self._queue: list[int] = []
        self._building: int | None = None
        self._builder: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._seconds_per_cube = _SECONDS_PER_CUBE

    @property
    def built_bytes(self) -> int:
        """Bytes of weights beside the configured model's."""
        return sum(self._extra(size, entry.layers) for size, entry in self._sizes.items())

    @property
    def queued(self) -> int:
        """Sizes that wait for their build to begin."""
        return len(self._queue)

    def layers(self, esn_size: int) -> int:
        """How many layers of this size are built."""
        return self._sizes[esn_size].layers if esn_size in self._sizes else 0

    def folder(self, esn_size: int) -> Path:
        """Where the files of this size are."""
        if self._folder is None:
            raise WorkerLost("the model is not loaded")
        return self._folder.path / str(esn_size)

    async def start(self) -> None:
        """Build the configured model. Raises what building raised."""
        model = self._model
        if self._folder is not None:
            return
        self._folder = await asyncio.to_thread(PrivateFolder, self._parent)
        entry = self._sizes[model.esn_size] = _Size(kept=model.membrane_depth)
        try:
            for layer in range(1, model.membrane_depth + 1):
                await self._build_layer(model.esn_size, entry, layer)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End a build under way, fail who waits, and remove the files. Idempotent."""
        if self._builder is not None:
            self._builder.cancel()
            await asyncio.gather(self._builder, return_exceptions=True)
            self._builder = None
        for entry in self._sizes.values():
            _fail(entry, WorkerLost("the server is stopping"))
        self._sizes.clear()
        self._queue.clear()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await asyncio.to_thread(folder.remove)

    def hold(self, esn_size: int, depth: int) -> bool:
        """Keep this model from eviction until `release`, if it is built; False where it is not."""
        entry = self._sizes.get(esn_size)
        if entry is None or entry.layers < depth:
            return False
        entry.holds += 1
        if not entry.kept:
            self._sizes[esn_size] = self._sizes.pop(esn_size)
        return True

    def release(self, esn_size: int) -> None:
        """Undo one `hold`."""
        entry = self._sizes.get(esn_size)
        if entry is not None:
            entry.holds -= 1
            self._room.set()

    async def built(self, esn_size: int, depth: int, seconds: float) -> None:
        """Wait until the model is built, at most so many seconds, and hold it.

        Raises InvalidInput for a model that alone exceeds `max_model_bytes`, BuildQueueFull, DeadlineExceeded, or
        what building raised. A build that nobody waits for any more ends after its layer; what is built stays.
        """
        if self.hold(esn_size, depth):
            return
        self._check_bound(esn_size, depth)
        if esn_size != self._building and esn_size not in self._queue:
            if self._building is not None and len(self._queue) >= MAX_QUEUED:
                raise BuildQueueFull(f"{MAX_QUEUED} model sizes are waiting to be built already", retry_after=self._retry_after())
            self._queue.append(esn_size)
        entry = self._sizes.setdefault(esn_size, _Size())
        ready = asyncio.get_running_loop().create_future()
        entry.waiting.append((depth, ready))
        if self._builder is None or self._builder.done():
            self._builder = asyncio.ensure_future(self._build_queued())
        try:
            async with asyncio.timeout(seconds):
                await ready
        except BaseException as error:
            if ready.done() and not ready.cancelled() and ready.exception() is None:
                self.release(esn_size)  # built and held for us at the moment when we went away
            ready.cancel()
            if esn_size in self._queue and not _wanted(entry):
                self._queue.remove(esn_size)
                del self._sizes[esn_size]
            self._room.set()  # the builder may be waiting for room for this one alone
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"the model of membrane_depth {depth} and esn_size {esn_size} was not built in time", retry_after=self._retry_after()
                ) from None
            raise

    async def _build_queued(self) -> None:
        while self._queue:
            size = self._building = self._queue.pop(0)
            entry = self._sizes[size]
            try:
                while _wanted(entry) > entry.layers:
                    await self._make_room(size, entry)
                    if _wanted(entry) > entry.layers:
                        await self._build_layer(size, entry, entry.layers + 1)
            except Exception as error:  # noqa: BLE001 - told to those who wait for this size; the next size may well be built
                _fail(entry, error)
            finally:
                self._building = None
                if not entry.layers and not _wanted(entry):
                    self._sizes.pop(size, None)

    async def _build_layer(self, esn_size: int, entry: _Size, layer: int) -> None:
        seconds = await self._build(esn_size, layer, self.folder(esn_size))
        self._seconds_per_cube = seconds / esn_size**3
        entry.layers = layer
        served = [ready for depth, ready in entry.waiting if depth <= layer and not ready.done()]
        entry.waiting = [(depth, ready) for depth, ready in entry.waiting if depth > layer and not ready.done()]
        for ready in served:
            entry.holds += 1
            ready.set_result(None)

    async def _make_room(self, esn_size: int, entry: _Size) -> None:
        while _wanted(entry) > entry.layers:
            self._room.clear()
            grown = self._extra(esn_size, entry.layers + 1) - self._extra(esn_size, entry.layers)
            over = self.built_bytes + grown - self._model.max_model_bytes
            if over <= 0:
                return
            victim = next(
                (size for size, other in self._sizes.items() if size != esn_size and not other.holds and other.layers > other.kept), None
            )
            if victim is None:
                await self._room.wait()
            else:
                await self._evict(victim)

    async def _evict(self, esn_size: int) -> None:
        entry = self._sizes[esn_size]
        folder = self.folder(esn_size)
        gone = (
            [folder]
            if not entry.kept
            else [file for layer in range(entry.kept + 1, entry.layers + 1) for file in folder.glob(f"{layer}.*")]
        )
        entry.layers = entry.kept
        if not entry.kept and not entry.waiting:
            del self._sizes[esn_size]
        self.forget(esn_size)
        await asyncio.to_thread(_remove, gone)

    def _extra(self, esn_size: int, layers: int) -> int:
        """Bytes that so many layers of this size count towards the bound."""
        entry = self._sizes.get(esn_size)
        kept = entry.kept if entry is not None else 0
        if layers <= kept:
            return 0
        return model_bytes(self._model, layers, esn_size) - (model_bytes(self._model, kept, esn_size) if kept else 0)

    def _check_bound(self, esn_size: int, depth: int) -> None:
        size, bound = self._extra(esn_size, depth), self._model.max_model_bytes
        if size > bound:
            raise InvalidInput(
                f"a model of membrane_depth {depth} and esn_size {esn_size} has {size} bytes of weights; at most {bound} are allowed",
                field="esn_size",
                value=esn_size,
                expected=f"a model of at most {bound} bytes of weights",
            )

    def _retry_after(self) -> float:
        """Predicted seconds until the build under way is done, at least 1."""
        if self._building is None:
            return 1.0
        entry = self._sizes[self._building]
        return float(max(1, math.ceil((_wanted(entry) - entry.layers) * self._seconds_per_cube * self._building**3)))


def _wanted(entry: _Size) -> int:
    return max((depth for depth, ready in entry.waiting if not ready.done()), default=0)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fail(entry: _Size, error: Exception) -> None:
    for _, ready in entry.waiting:
        if not ready.done():
            ready.set_exception(error)
    entry.waiting.clear()
