"""Many trees through one reservoir: each its own features, in bounded memory, the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.errors import ComputeFailed
from dtesn_sidecar.model.featurise import feature_matrix, featurise, reservoir_of
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.reservoir import RunItem
from dtesn_sidecar.model.trees import Tree

MODEL = ModelConfiguration(membrane_depth=2, esn_size=32)
TREES = [parse_input("the same words again and again "[: 1 + n % 30]) for n in range(60)]


def matrix(trees: list[Tree] = TREES, speed: float | None = None, **options: Any) -> np.ndarray:
    reservoir = reservoir_of(MODEL)
    reservoir.seconds_per_cost = speed
    return feature_matrix(reservoir, trees, np.empty((len(trees), 128), dtype=np.float32), **options)


def test_each_row_is_what_a_run_of_its_own_gives() -> None:
    found = matrix()
    reservoir = reservoir_of(MODEL)
    for tree, row in zip(TREES[:30], found, strict=False):
        run = reservoir.start()
        run.admit([RunItem(0, tree, 2)])
        (result,) = run.advance(1000)
        np.testing.assert_allclose(row.reshape(2, 2, 32), result.features, atol=2e-6)


@pytest.mark.parametrize("speed", [1e-9, 1e9])
def test_the_speed_of_the_machine_changes_no_bit(speed: float) -> None:
    np.testing.assert_array_equal(matrix(speed=speed), matrix())


@pytest.mark.parametrize("bound", [1, 40, 1000])
def test_trees_are_taken_as_there_is_room(bound: int) -> None:
    taken: list[int] = []
    sizes = [tree.nodes for tree in TREES]

    def trees() -> Iterator[tuple[int, Tree]]:
        for number, tree in enumerate(TREES):
            taken.append(number)
            yield number, tree

    done: set[int] = set()
    for results in featurise(reservoir_of(MODEL), trees(), bound):
        # One more than those under way has been taken from the source: it waits for its room.
        under_way = sum(sizes[number] for number in taken[:-1] if number not in done)
        assert under_way <= max(bound, 30)
        done |= {result.id for result in results}
    assert sorted(done) == list(range(len(TREES)))


def test_how_many_came_is_told_and_a_tree_that_fails_is_raised() -> None:
    told: list[int] = []
    matrix(done=told.append)
    assert sum(told) == len(TREES)
    with pytest.raises(ComputeFailed):
        matrix([*TREES[:3], Tree("vector", np.array([[np.inf]]))])


def test_no_trees_are_no_rows() -> None:
    assert matrix([]).shape == (0, 128)
