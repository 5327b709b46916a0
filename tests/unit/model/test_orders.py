"""The order of each integration: exactly, by the rooted-tree conditions, and as measured on the model."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pytest
from tests.unit.model.models import Features, compute, layers_of

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.reservoir import Reservoir
from dtesn_sidecar.model.steps import tableau
from dtesn_sidecar.model.trees import Tree

Rooted: TypeAlias = tuple["Rooted", ...]  # a tree is the sorted tuple of what hangs from its root


def rooted_trees(nodes: int) -> list[Rooted]:
    """All rooted trees of so many nodes (OEIS A000081)."""

    def forests(left: int, below: Rooted | None) -> Iterator[Rooted]:
        if left == 0:
            yield ()
        for size in range(1, left + 1):
            for tree in rooted_trees(size):
                if below is None or (size_of(tree), tree) <= (size_of(below), below):
                    for rest in forests(left - size, tree):
                        yield (tree, *rest)

    return list(forests(nodes - 1, None))


def size_of(tree: Rooted) -> int:
    return 1 + sum(size_of(child) for child in tree)


def density(tree: Rooted) -> int:
    """gamma(tau): the product of the sizes of all subtrees."""
    value = size_of(tree)
    for child in tree:
        value *= density(child)
    return value


def weight(tree: Rooted, order: int) -> Fraction:
    """Phi(tau) of the tableau that the run computes with."""
    rows, weights = tableau(order)
    a = [[Fraction(w).limit_denominator(1000) for w in row] + [Fraction(0)] * (len(rows) - len(row)) for row in rows]
    b = [Fraction(w).limit_denominator(1000) for w in weights]

    def stages(node: Rooted) -> list[Fraction]:
        values = [Fraction(1)] * len(b)
        for child in node:
            inner = stages(child)
            values = [v * sum((a[i][j] * inner[j] for j in range(len(b))), Fraction(0)) for i, v in enumerate(values)]
        return values

    return sum((x * y for x, y in zip(b, stages(tree), strict=True)), Fraction(0))


def test_there_are_as_many_rooted_trees_as_there_should_be() -> None:
    assert [len(rooted_trees(n)) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]
    assert [len(set(rooted_trees(n))) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@pytest.mark.parametrize(("order", "trees"), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_each_order_meets_the_condition_of_every_rooted_tree_up_to_it_and_not_beyond(order: int, trees: int) -> None:
    conditions = [tree for nodes in range(1, order + 1) for tree in rooted_trees(nodes)]
    assert len(conditions) == trees
    assert all(weight(tree, order) == Fraction(1, density(tree)) for tree in conditions)
    assert any(weight(tree, order) != Fraction(1, density(tree)) for tree in rooted_trees(order + 1))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_error_falls_with_the_step_as_fast_as_the_order_says(order: int) -> None:
    """Time 2 of xdot = -x + tanh(W u + What x + b) in n steps of a = 2 / n, the label held: halving a divides the error by 2^order."""
    label = np.array([[0.7, -0.4]])

    def end(steps: int, order: int) -> Features:
        config = ModelConfiguration(dtype="float64", leak_rate=2 / steps, order=order)
        reservoir = Reservoir(layers_of(config, 36, 1), config, features_dtype=np.float64)
        found: Features = compute(reservoir, [(Tree("vector", np.repeat(label, steps, axis=0)), 1)])[0][0, 0]
        return found

    exact = end(1024, 4)
    errors = [np.linalg.norm(end(steps, order) - exact) for steps in (16, 32, 64)]
    slopes = [np.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(slope - order) < 0.15 for slope in slopes), slopes
