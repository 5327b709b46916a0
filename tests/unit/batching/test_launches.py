"""Devices where a batch takes about as long whatever it holds: from a cold start, the decisions find that out and use it."""

from __future__ import annotations

import random

import pytest
from bench.launches import FOUND_WITHIN, Device, best_size, saturated
from bench.virtual import virtual
from hypothesis import given, settings
from hypothesis import strategies as st

from dtesn_api.spec import BatchConfiguration
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
