"""How many launches a step takes where each costs more than what it computes: the figures below may fall, and grow only on purpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.unit.model import devices
from tests.unit.model.models import make

from dtesn_sidecar.model.backend import Backend
from dtesn_sidecar.model.reservoir import RunItem
from dtesn_sidecar.model.trees import Tree

AT_MOST = {
    ("any library", "orthogonal"): 7.125,
    ("any library", "sparse"): 8.125,
    ("any library", "ring"): 8.125,
    ("cupy", "orthogonal"): 2.125,
    ("cupy", "sparse"): 3.125,
    ("cupy", "ring"): 3.125,
}
"""Per step and layer: the product and the update, and an eighth for sums (of SPAN_STEPS = 16 steps each)."""

BACKENDS: dict[str, Callable[[devices.Launches], Backend]] = {"any library": devices.any_library, "cupy": devices.cupy}


def launches(name: str, topology: str, lengths: list[int], depth: int) -> int:
    """Of one run over texts of these lengths, in one slice, by a model whose speed is known."""
    library = devices.Launches()
    reservoir = make(64, depth, BACKENDS[name](library), topology=topology)
    reservoir.seconds_per_cost = 1e-12
    run = reservoir.start()
    run.admit([RunItem(i, Tree("byte", np.zeros(length, np.uint8)), depth) for i, length in enumerate(lengths)])
    with library.counting():
        while run.active:
            run.advance(1e9)
        return library.launches


@pytest.mark.parametrize("items", [1, 8, 30])
@pytest.mark.parametrize(("name", "topology"), AT_MOST)
def test_a_step_of_a_layer_takes_so_many_launches_whatever_its_rows(name: str, topology: str, items: int) -> None:
    one, two = ([launches(name, topology, [steps] * items, depth) for steps in (17, 33)] for depth in (1, 2))
    assert (one[1] - one[0]) / 16 <= AT_MOST[name, topology]
    assert (two[1] - two[0]) / 32 <= AT_MOST[name, topology]


@pytest.mark.parametrize("name", BACKENDS)
def test_beside_its_steps_a_run_takes_few_launches(name: str) -> None:
    for depth in (1, 4):
        beside = launches(name, "orthogonal", [33] * 8, depth) - 33 * depth * AT_MOST[name, "orthogonal"]
        assert beside <= 16 + 18 * depth


@pytest.mark.parametrize("name", BACKENDS)
def test_texts_of_mixed_lengths_take_two_launches_more_for_each_that_ends_in_a_step_of_its_own(name: str) -> None:
    lengths = [3 + 2 * i for i in range(32)]
    equal, mixed = launches(name, "orthogonal", [max(lengths)] * 32, 2), launches(name, "orthogonal", lengths, 2)
    assert mixed - equal <= 2 * 2 * len(lengths)
