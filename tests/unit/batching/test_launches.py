"""Devices where a batch takes about as long whatever it holds: from a cold start, the decisions find that out and use it."""

from __future__ import annotations

import asyncio
import random

import pytest
from bench.launches import FOUND_WITHIN, Device, best_size, saturated
from bench.virtual import virtual
from hypothesis import given, settings
from hypothesis import strategies as st

from dtesn_api.spec import BatchConfiguration
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.protocols import Work

LARGEST = 32
COUNTED = FOUND_WITHIN + 15


def best_rate(device: Device, work: Work, largest: int = LARGEST) -> float:
    size = best_size(device, work, largest=largest, longest=BatchConfiguration().max_batch_seconds)
    return size / device.seconds([work] * size)


def one() -> Work:
    return Work()


def long(levels: int = 500) -> Work:
    return Work(nodes=levels, levels=levels)


@pytest.mark.parametrize("largest", [32, 128])
@pytest.mark.parametrize(
    ("device", "work"),
    [
        (Device(batch=0.5, node=0.00005), one()),
        (Device(step=0.001, node=1e-7), long()),
        (Device(step=0.001, node=1e-5), long()),
        (Device(batch=0.24, node=0.0004), one()),
        (Device(batch=2.0, node=0.001), one()),
    ],
    ids=["launch", "steps", "steps and rows", "just below the longest batch", "far above it"],
)
def test_a_device_bound_by_launches_is_given_large_batches(device: Device, work: Work, largest: int) -> None:
    device = Device(device.batch, device.step, device.node)
    virtual(saturated(device, lambda rng: work, clients=3 * largest, batches=COUNTED, largest=largest))
    assert device.rate(FOUND_WITHIN, COUNTED) >= 0.9 * best_rate(device, work, largest)


def mixed(rng: random.Random) -> Work:
    return long(min(4000, max(20, round(rng.lognormvariate(5.5, 0.9)))))


def test_texts_of_mixed_lengths_fill_the_batches_of_a_device_bound_by_steps() -> None:
    device = Device(step=0.001, node=1e-6)
    virtual(saturated(device, mixed, clients=200, batches=60))
    assert sum(device.sizes[FOUND_WITHIN:60]) / (60 - FOUND_WITHIN) >= 20


@settings(max_examples=15)
@given(
    alone=st.floats(0.005, 2.0),
    share=st.floats(0.0, 0.5) | st.floats(0.5, 1.0),
    levels=st.sampled_from([1, 100]),
    noise=st.sampled_from([0.0, 0.1]),
)
def test_whatever_the_share_of_launches_saturated_throughput_comes_near_the_best_fixed_size(
    alone: float, share: float, levels: int, noise: float
) -> None:
    device = Device(step=share * alone / levels, node=(1.0 - share) * alone / levels, noise=noise)
    virtual(saturated(device, lambda rng: long(levels), clients=2 * LARGEST, batches=COUNTED))
    near = 0.8 if noise else 0.9  # where three hardly fit, what was learnt from noise may say two
    assert device.rate(FOUND_WITHIN, COUNTED) >= near * best_rate(device, long(levels))


async def clients_of_one_core(device: Device, clients: int, apart: float, batches: int) -> None:
    """Each asks again once it is answered, one after the other: a server's core takes that long for each."""
    loop = asyncio.get_running_loop()
    free = loop.time()
    manager: DynamicBatchManager = DynamicBatchManager(BatchConfiguration(), lambda: manager.busy_share(), device)

    async def client() -> None:
        nonlocal free
        while len(device.sizes) < batches:
            await manager.submit(None, timeout=60.0)
            free = max(free, loop.time()) + apart
            await asyncio.sleep(free - loop.time())

    async with manager:
        await asyncio.gather(*(client() for _ in range(clients)))


@pytest.mark.parametrize("apart", [0.0003, 0.001])
def test_clients_that_come_back_one_after_the_other_share_one_batch_where_that_takes_long(apart: float) -> None:
    device = Device(batch=0.5, node=0.00005)
    virtual(clients_of_one_core(device, 32, apart, 60))
    assert sum(device.sizes[40:60]) / 20 >= 0.9 * 32, "and not halves that alternate"


def test_a_lone_client_of_a_device_bound_by_launches_waits_for_nobody() -> None:
    device = Device(batch=0.5, node=0.00005)
    virtual(clients_of_one_core(device, 1, 0.001, 20))
    assert device.rate(1, 20) == pytest.approx(1.0 / (0.50005 + 0.001))
