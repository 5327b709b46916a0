from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import reservoirpy.nodes
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model import reference
from tests.unit.model.models import Features, compute, config_of, layers_of, make, trees

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.errors import ComputeFailed, DTESNError
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.reservoir import Reservoir, RunItem, run_bytes
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import LayerWeights

ORDERS, TOPOLOGIES = st.sampled_from([1, 2, 3, 4]), st.sampled_from(["orthogonal", "sparse", "ring"])
items_of_a_batch = st.lists(st.tuples(trees(), st.integers(1, 3)), min_size=1, max_size=6)


def text(length: int, seed: int = 0) -> Tree:
    return Tree("byte", np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8))


@given(items=items_of_a_batch, order=ORDERS, topology=TOPOLOGIES, gamma=st.sampled_from([0.0, 0.5, 1.0]), size=st.sampled_from([36, 64]))
@settings(max_examples=60)
def test_a_batch_computes_the_equations(items: list[tuple[Tree, int]], order: int, topology: str, gamma: float, size: int) -> None:
    config = config_of(dtype="float64", order=order, topology=topology, aggregation_exponent=gamma, leak_rate=0.4)
    layers = layers_of(config, size, 3)
    found = compute(Reservoir(layers, config, features_dtype=np.float64), items)
    for (tree, depth), features in zip(items, found, strict=True):
        np.testing.assert_allclose(features, reference.features(tree, layers, config, depth), rtol=0, atol=1e-12)


def test_a_node_of_4095_children_computes_the_equations() -> None:
    config = config_of(dtype="float64", aggregation_exponent=0.7)
    layers = layers_of(config, 36, 2)
    rng = np.random.default_rng(3)
    star = Tree.of_parents("vector", rng.standard_normal((4096, 1)), np.minimum(np.arange(-1, 4095), 0))
    broom = Tree.of_parents("vector", rng.standard_normal((60, 1)), np.concatenate([np.arange(-1, 19), np.full(40, 12)]))
    found = compute(Reservoir(layers, config, features_dtype=np.float64), [(star, 2), (text(30), 1), (broom, 2)])
    for tree, features in ((star, found[0]), (broom, found[2])):
        np.testing.assert_allclose(features, reference.features(tree, layers, config, 2), rtol=0, atol=1e-11)


@given(items=items_of_a_batch, order=ORDERS, topology=TOPOLOGIES)
@settings(max_examples=40)
def test_alone_or_in_any_batch_the_answer_is_the_same(items: list[tuple[Tree, int]], order: int, topology: str) -> None:
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-12)):
        reservoir = make(dtype=dtype, order=order, topology=topology, spectral_radius=0.5)
        together = compute(reservoir, items)
        for item, features in zip(items, together, strict=True):
            np.testing.assert_allclose(features, compute(reservoir, [item], budget_s=0.0)[0], rtol=0, atol=tolerance)


def test_mixed_texts_at_the_default_size_agree_with_each_alone_to_2e_6() -> None:
    reservoir = make(512, 4)
    lengths = [1, 2, 3, 5, 9, 17, 40, 64, 64, 65, 100, 150]
    batch = [(text(length, seed), 1 + seed % 4) for seed, length in enumerate(lengths)]
    for item, features in zip(batch, compute(reservoir, batch), strict=True):
        np.testing.assert_allclose(features, compute(reservoir, [item])[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", ["chain", "star", "comb"])
def test_means_over_thousands_of_nodes_agree_with_float64_to_2e_6(shape: str) -> None:
    config = config_of(spectral_radius=0.9 if shape == "chain" else 0.01)
    reservoir = Reservoir(layers_of(config, 64, 2), config)
    exact = config_of(dtype="float64", spectral_radius=config.spectral_radius)
    parents = {
        "chain": np.arange(-1, 3999),
        "star": np.minimum(np.arange(-1, 3999), 0),
        "comb": np.array([-1] + [max(0, i - 1 - (i % 2)) for i in range(1, 4000)]),
    }[shape]
    tree = Tree.of_parents("byte", np.full(4000, ord("y"), dtype=np.uint8), parents)
    alone = compute(reservoir, [(tree, 2)])[0]
    np.testing.assert_allclose(alone, reference.features(tree, layers_of(exact, 64, 2), exact, 2), rtol=0, atol=2e-6)
    together = compute(reservoir, [(tree, 2), (text(77), 1), (tree, 2), (text(1200), 2)], budget_s=0.002)
    for features in (together[0], together[2]):
        np.testing.assert_allclose(features, alone, rtol=0, atol=2e-6)


@given(tree=trees(), seed=st.integers(0, 999), order=ORDERS)
@settings(max_examples=40)
def test_permuted_children_give_the_same_answer(tree: Tree, seed: int, order: int) -> None:
    shuffle = np.random.default_rng(seed).permutation(tree.nodes)
    parents, _ = tree.links
    place = np.argsort(shuffle)
    moved = np.array([-1 if parents[i] < 0 else place[parents[i]] for i in shuffle])
    other = Tree.of_parents(tree.kind, np.asarray(tree.labels)[shuffle], moved)
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-12)):
        one, two = compute(make(dtype=dtype, order=order, spectral_radius=0.5), [(tree, 3), (other, 3)])
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance)


def oracle(layer: LayerWeights, width: int, leak_rate: float) -> reservoirpy.nodes.Reservoir:
    return reservoirpy.nodes.Reservoir(
        W=reference.dense(layer.recurrent).T,
        Win=reference.dense(layer.input)[:width].T,
        bias=np.asarray(layer.bias, dtype=np.float64),
        lr=leak_rate,
        activation="tanh",
        dtype=np.float64,
    )


@pytest.mark.parametrize("topology", ["orthogonal", "sparse", "ring"])
@pytest.mark.parametrize("leak_rate", [0.3, 1.0])
def test_stacked_chain_layers_equal_reservoirpy_to_1e_12(topology: str, leak_rate: float) -> None:
    config = config_of(dtype="float64", topology=topology, leak_rate=leak_rate)
    layers = layers_of(config, 64, 3)
    series = np.random.default_rng(5).standard_normal((40, 3))
    prefixes = [(Tree("vector", series[: t + 1]), 3) for t in range(len(series))]
    found = compute(Reservoir(layers, config, features_dtype=np.float64), prefixes)
    states, below = [], series
    for layer in layers:
        below = oracle(layer, below.shape[1], leak_rate).run(below)
        states.append(below)
    for t, features in enumerate(found):
        for level, layer_states in enumerate(states):
            np.testing.assert_allclose(features[level, 0], layer_states[t], rtol=0, atol=1e-12)
            np.testing.assert_allclose(features[level, 1], layer_states[: t + 1].mean(axis=0), rtol=0, atol=1e-12)


@given(tree=trees(), topology=TOPOLOGIES)
@settings(max_examples=20)
def test_the_first_layers_of_a_deeper_model_are_the_shallower_model(tree: Tree, topology: str) -> None:
    deep = compute(make(depth=3, topology=topology), [(tree, 3)])[0]
    for depth in (1, 2):
        np.testing.assert_array_equal(compute(make(depth=depth, topology=topology), [(tree, depth)])[0], deep[:depth])
        np.testing.assert_array_equal(compute(make(depth=3, topology=topology), [(tree, depth)])[0], deep[:depth])


@given(
    tree=trees(),
    scale=st.sampled_from([0.0, 1.0, 1e3, 1e30]),
    radius=st.sampled_from([0.0, 0.9, 10.0]),
    leak_rate=st.sampled_from([0.01, 0.5, 1.0]),
    order=ORDERS,
)
@settings(max_examples=40)
def test_no_state_leaves_the_unit_cube(tree: Tree, scale: float, radius: float, leak_rate: float, order: int) -> None:
    if tree.kind == "vector":
        tree = Tree(tree.kind, np.clip(tree.labels * scale, -1e30, 1e30), tree.parents, tree.level_sizes)
    features = compute(make(spectral_radius=radius, leak_rate=leak_rate, order=order), [(tree, 3)])[0]
    assert np.abs(features).max() <= 1 + 1e-6


@given(
    seed=st.integers(0, 999),
    distance=st.integers(0, 30),
    leak_rate=st.sampled_from([0.1, 0.3, 1.0]),
    radius=st.sampled_from([0.2, 0.9, 0.99]),
)
@settings(max_examples=40)
def test_a_changed_leaf_fades_at_least_by_the_contraction_bound(seed: int, distance: int, leak_rate: float, radius: float) -> None:
    reservoir = make(depth=1, dtype="float64", leak_rate=leak_rate, spectral_radius=radius)
    one = np.random.default_rng(seed).standard_normal((distance + 1, 2))
    two = one.copy()
    two[0] += 3.0
    leaf_one, leaf_two, root_one, root_two = (
        f[0, 0] for f in compute(reservoir, [(Tree("vector", x), 1) for x in (one[:1], two[:1], one, two)])
    )
    bound = (1 - leak_rate * (1 - radius)) ** distance * np.linalg.norm(leaf_one - leaf_two)
    rounding = 1e-14  # a bound below what float64 tells apart can be missed by a last digit
    assert np.linalg.norm(root_one - root_two) <= bound * (1 + 1e-9) + rounding


def test_an_empty_run_is_idle() -> None:
    run = make().start()
    run.admit([])
    assert (run.advance(), run.active, run.nodes_done, run.levels_done) == ([], 0, 0, 0)


def test_items_that_cannot_be_computed_fail_alone() -> None:
    reservoir = make()
    good = parse_input("good")
    poisoned = Tree("vector", np.array([[1.0], [np.nan]]))
    run = reservoir.start()
    run.admit(
        [
            RunItem(1, good, 3),
            RunItem(2, poisoned, 3),
            RunItem(3, good, 4),
            RunItem(4, good, 0),
            RunItem(5, Tree("byte", np.empty(0, np.uint8)), 1),
        ]
    )
    assert run.active == 5
    found: dict[int, Features | DTESNError] = {}
    while run.active:
        found |= {result.id: result.features for result in run.advance()}
    assert [isinstance(found[i], ComputeFailed) for i in (1, 2, 3, 4, 5)] == [False, True, True, True, True]
    assert isinstance(found[1], np.ndarray)
    np.testing.assert_allclose(found[1], compute(reservoir, [(good, 3)])[0], rtol=0, atol=2e-6)


def test_states_that_are_not_finite_fail_their_item_alone() -> None:
    layers = layers_of(ModelConfiguration(), 36, 1)
    table = np.array(layers[0].input)
    table[200] = np.nan
    broken = Reservoir([LayerWeights(table, layers[0].recurrent, layers[0].bias)], ModelConfiguration())
    run = broken.start()
    run.admit([RunItem(0, Tree("byte", np.array([1, 2], np.uint8)), 1), RunItem(1, Tree("byte", np.array([1, 200, 3], np.uint8)), 1)])
    found: dict[int, Features | DTESNError] = {}
    while run.active:
        found |= {result.id: result.features for result in run.advance()}
    assert isinstance(found[0], np.ndarray)
    assert isinstance(found[1], ComputeFailed)


def test_a_slice_computes_at_least_one_level_and_no_more_than_the_time_allows() -> None:
    done = [0]
    run = make().start(clock=lambda: run.levels_done * 0.001 + 1000.0)
    run.admit([RunItem(0, text(500), 3)])
    for budget, most in ((0.0, 1), (0.0, 1), (0.02, 20), (0.0, 1), (0.1, 100)):
        assert run.advance(budget) == []
        done.append(run.levels_done)
        assert 0.8 * most <= done[-1] - done[-2] <= most
    frozen = make().start(clock=lambda: 0.0)
    frozen.admit([RunItem(0, text(5), 3)])
    frozen.advance(1.0)
    assert frozen.levels_done == 1


def test_short_items_are_answered_before_long_ones() -> None:
    run = make().start()
    run.admit([RunItem(i, text(length), 3) for i, length in enumerate((5, 1, 9))])
    order = []
    while run.active:
        order += [result.id for result in run.advance(0.0)]
    assert order == [1, 0, 2]
    assert (run.nodes_done, run.levels_done) == (15, 9)


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """What a worker may do with a run: admit some, drop some, advance a slice."""
    script: list[tuple[str, Any]] = []
    admitted = 0
    for _ in range(draw(st.integers(1, 12))):
        what = draw(st.sampled_from(["admit", "advance", "advance", "drop"]))
        if what == "admit":
            script.append(("admit", draw(st.lists(st.tuples(trees(12), st.integers(1, 3)), min_size=1, max_size=3))))
            admitted += len(script[-1][1])
        elif what == "drop":
            script.append(("drop", draw(st.lists(st.integers(0, max(admitted, 1)), max_size=2))))
        else:
            script.append(("advance", draw(st.integers(1, 4))))
    return script


@given(script=scripts(), order=st.sampled_from([1, 3]))
@settings(max_examples=80)
def test_any_interleaving_of_admit_drop_and_advance_equals_computing_alone(script: Sequence[tuple[str, Any]], order: int) -> None:
    reservoir = make(dtype="float64", order=order, spectral_radius=0.5)
    run = reservoir.start()
    items: list[tuple[Tree, int]] = []
    found: dict[int, Features] = {}
    dropped: set[int] = set()

    def advance() -> None:
        for result in run.advance(0.0):
            assert isinstance(result.features, np.ndarray)
            assert result.id not in found
            found[result.id] = result.features

    for what, argument in script:
        if what == "admit":
            run.admit([RunItem(len(items) + i, tree, depth) for i, (tree, depth) in enumerate(argument)])
            items += argument
        elif what == "drop":
            dropped |= {i for i in argument if i < len(items) and i not in found}
            run.drop(argument)
        else:
            for _ in range(argument):
                advance()
        assert run.active == len(items) - len(found) - len(dropped)
    while run.active:
        advance()
    assert found.keys() == set(range(len(items))) - dropped
    for i, features in found.items():
        np.testing.assert_allclose(features, compute(reservoir, [items[i]])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 4])
@pytest.mark.parametrize("shape", ["chains", "trees"])
def test_the_memory_of_a_run_stays_within_the_formula(shape: str, order: int) -> None:
    rng = np.random.default_rng(1)
    batch = [text(200, i) for i in range(40)]
    if shape == "trees":
        batch = [
            Tree.of_parents(
                "hash", rng.integers(0, 99, (300, 2), dtype=np.uint64), np.array([-1] + [int(rng.integers(0, i)) for i in range(1, 300)])
            )
            for _ in range(12)
        ]
    reservoir = make(128, 3, order=order)
    bound = run_bytes([(tree.nodes, tree.levels) for tree in batch], 128, 3, order=order)
    tracemalloc.start()
    try:
        compute(reservoir, [(tree, 3) for tree in batch])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.1 * bound <= peak <= bound
