"""The store of weights with a builder that builds when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.compute.store import MAX_QUEUED, WeightStore
from dtesn_sidecar.errors import BuildQueueFull, DeadlineExceeded, InvalidInput, OutOfMemory, WorkerLost
from dtesn_sidecar.model.weights import model_bytes

SMALL: dict[str, Any] = {"esn_size": 32, "membrane_depth": 2}


def write(folder: Path, layer: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{layer}.bias.npy").write_text("weights")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class Builder:
    """Writes a file for each layer; waits for `go` first where it is told to."""

    def __init__(self) -> None:
        self.built: list[tuple[int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.one_at_a_time = False
        self.error: Exception | None = None
        self.under_way = 0
        self.most = 0

    async def __call__(self, esn_size: int, layer: int, folder: Path) -> float:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            write(folder, layer)
            self.built.append((esn_size, layer))
            if self.one_at_a_time:
                self.gate.clear()
            return 0.001
        finally:
            self.under_way -= 1


@pytest.fixture
async def builder() -> Builder:
    return Builder()


@pytest.fixture
async def make(builder: Builder, tmp_path: Path) -> AsyncIterator[Callable[..., Coroutine[Any, Any, WeightStore]]]:
    stores: list[WeightStore] = []

    async def made(**settings: Any) -> WeightStore:
        store = WeightStore(ModelConfiguration(**(SMALL | settings)), builder, parent=tmp_path)
        stores.append(store)
        await store.start()
        return store

    yield made
    for store in stores:
        await store.stop()
    assert names(tmp_path) == [], "a folder was left behind"


def later(seconds: float = 250.0) -> float:
    return seconds


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_configured_model_is_there_after_the_start(make: Any, builder: Builder) -> None:
    store = await make()
    assert builder.built == [(32, 1), (32, 2)]
    assert store.hold(32, 2)
    assert store.hold(32, 1)
    assert not store.hold(32, 3)
    assert store.built_bytes == 0, "the configured model does not count towards the bound"


async def test_a_request_for_the_configured_model_never_waits_for_a_build(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    other = asyncio.ensure_future(store.built(64, 1, later()))
    await turns()
    assert store.hold(32, 2)
    await asyncio.wait_for(store.built(32, 2, later()), 1)
    builder.gate.set()
    await other


async def test_a_deeper_model_adds_to_the_layers_that_are_there(make: Any, builder: Builder) -> None:
    store = await make()
    await store.built(64, 1, later())
    await store.built(64, 3, later())
    await store.built(32, 4, later())
    assert builder.built == [(32, 1), (32, 2), (64, 1), (64, 2), (64, 3), (32, 3), (32, 4)]


async def test_builds_run_one_at_a_time_and_waiters_of_a_size_share_one(make: Any, builder: Builder) -> None:
    store = await make()
    await asyncio.gather(*(store.built(size, depth, later()) for size in (64, 96, 64, 128) for depth in (1, 2)))
    assert builder.most == 1
    assert sorted(builder.built) == sorted([(32, 1), (32, 2), (64, 1), (64, 2), (96, 1), (96, 2), (128, 1), (128, 2)])


async def test_a_shallow_waiter_does_not_wait_for_the_layers_of_a_deep_one(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    deep, shallow = asyncio.ensure_future(store.built(64, 2, later())), asyncio.ensure_future(store.built(64, 1, later()))
    await turns()
    builder.one_at_a_time = True
    builder.gate.set()
    await shallow
    assert builder.built == [(32, 1), (32, 2), (64, 1)]
    builder.gate.set()
    await deep


async def test_the_fifth_size_in_the_queue_is_refused_with_retry_after(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    accepted = [asyncio.ensure_future(store.built(64 + 32 * n, 1, later())) for n in range(1 + MAX_QUEUED)]
    await turns()
    assert store.queued == MAX_QUEUED
    with pytest.raises(BuildQueueFull) as refused:
        await store.built(1024, 1, later())
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    assert (await asyncio.gather(store.built(64, 1, later(0)), return_exceptions=True))[0].__class__ is DeadlineExceeded, (
        "the same size joins its build"
    )
    builder.gate.set()
    await asyncio.gather(*accepted)


async def test_a_model_that_alone_exceeds_the_bound_is_refused_at_once_with_the_bound(make: Any, builder: Builder) -> None:
    bound = model_bytes(ModelConfiguration(**SMALL), 2, 64)
    store = await make(max_model_bytes=bound)
    with pytest.raises(InvalidInput, match=str(bound)) as refused:
        await store.built(64, 3, later())
    assert refused.value.field == "esn_size"
    await store.built(64, 2, later())
    assert store.built_bytes == bound


async def test_the_least_recently_used_size_is_evicted_for_another(make: Any, builder: Builder) -> None:
    config = ModelConfiguration(**SMALL)
    store = await make(max_model_bytes=model_bytes(config, 1, 64) + model_bytes(config, 1, 96) + model_bytes(config, 1, 128) - 1)
    gone: list[int] = []
    store.forget = gone.append
    for size in (64, 96):
        await store.built(size, 1, later())
        store.release(size)
    assert store.hold(64, 1)
    store.release(64)
    await store.built(128, 1, later())
    assert gone == [96]
    assert not store.folder(96).exists()
    assert store.folder(64).exists()
    assert not store.hold(96, 1)


async def test_a_size_that_a_request_holds_is_not_evicted_until_it_is_released(make: Any, builder: Builder) -> None:
    store = await make(max_model_bytes=model_bytes(ModelConfiguration(**SMALL), 1, 96))
    await store.built(64, 1, later())
    waiting = asyncio.ensure_future(store.built(96, 1, later()))
    await turns()
    assert not waiting.done()
    assert store.folder(64).exists()
    store.release(64)
    await asyncio.wait_for(waiting, 250)
    assert not store.hold(64, 1)


async def test_eviction_leaves_the_configured_layers(make: Any, builder: Builder) -> None:
    config = ModelConfiguration(**SMALL)
    store = await make(max_model_bytes=model_bytes(config, 1, 96))
    await store.built(32, 4, later())
    store.release(32)
    await store.built(96, 1, later())
    assert store.hold(32, 2)
    assert not store.hold(32, 3)
    assert names(store.folder(32)) == ["1.bias.npy", "2.bias.npy"]


async def test_a_build_counts_against_the_deadline(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await store.built(64, 1, later(0.001))
    builder.gate.set()


async def test_a_build_that_nobody_waits_for_ends_after_its_layer_and_the_layer_stays(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    waiting = asyncio.ensure_future(store.built(64, 4, later()))
    await turns()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    builder.gate.set()
    await store.built(96, 1, later())
    assert builder.built == [(32, 1), (32, 2), (64, 1), (96, 1)]


async def test_a_queued_size_that_nobody_waits_for_is_not_built(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    first, second = asyncio.ensure_future(store.built(64, 1, later())), asyncio.ensure_future(store.built(96, 1, later()))
    await turns()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert store.queued == 0
    builder.gate.set()
    await first
    assert (96, 1) not in builder.built


async def test_whoever_is_cancelled_at_the_moment_of_success_holds_nothing(make: Any, builder: Builder) -> None:
    store = await make(max_model_bytes=model_bytes(ModelConfiguration(**SMALL), 1, 96))
    builder.gate.clear()
    waiting = asyncio.ensure_future(store.built(64, 1, later()))
    await turns()
    builder.gate.set()
    while not store.layers(64):  # noqa: ASYNC110 - the very turn of the loop in which the build ends
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(store.built(96, 1, later()), 250)


async def test_a_failed_build_fails_those_who_wait_for_it_and_nobody_else(make: Any, builder: Builder) -> None:
    store = await make()
    builder.error = OutOfMemory("too large")
    with pytest.raises(OutOfMemory):
        await store.built(64, 1, later())
    builder.error = None
    await store.built(64, 1, later())


async def test_stopping_fails_those_who_wait(make: Any, builder: Builder) -> None:
    store = await make()
    builder.gate.clear()
    waiting = [asyncio.ensure_future(store.built(size, 1, later())) for size in (64, 96)]
    await turns()
    await store.stop()
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == [WorkerLost, WorkerLost]


async def test_a_start_whose_build_fails_raises_and_leaves_nothing(builder: Builder, tmp_path: Path) -> None:
    builder.error = OutOfMemory("too large")
    with pytest.raises(OutOfMemory):
        await WeightStore(ModelConfiguration(**SMALL), builder, parent=tmp_path).start()
    assert names(tmp_path) == []
