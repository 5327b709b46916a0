"""Small models and random trees that the tests of the model share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.backend import Backend
from dtesn_sidecar.model.reservoir import Reservoir, RunItem
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import LayerWeights, build_layer

Features = NDArray[Any]


def config_of(**fields: Any) -> ModelConfiguration:
    """A configuration out of values that a strategy or a parameter drew."""
    return ModelConfiguration(**fields)


@functools.cache
def _layers(
    seed: int, size: int, depth: int, topology: str, dtype: str, radius: float, bias: float, inter: float
) -> tuple[LayerWeights, ...]:
    config = config_of(seed=seed, topology=topology, dtype=dtype, spectral_radius=radius, bias=bias, inter_scaling=inter)
    return tuple(build_layer(config, size, layer) for layer in range(1, depth + 1))


def layers_of(config: ModelConfiguration, size: int, depth: int) -> list[LayerWeights]:
    """The layers of a configuration, drawn once for all tests."""
    c = config
    return list(_layers(c.seed, size, depth, c.topology, c.dtype, c.spectral_radius, c.bias, c.inter_scaling))


def compute(reservoir: Reservoir, items: Sequence[tuple[Tree, int]], budget_s: float = 1e9) -> list[Features]:
    """Features of these items, admitted together."""
    run = reservoir.start()
    run.admit([RunItem(i, tree, depth) for i, (tree, depth) in enumerate(items)])
    found: dict[int, Features] = {}
    while run.active:
        for result in run.advance(budget_s):
            assert isinstance(result.features, np.ndarray), result.features
            found[result.id] = result.features
    return [found[i] for i in range(len(items))]


def make(size: int = 36, depth: int = 3, backend: Backend | None = None, **fields: object) -> Reservoir:
    """A reservoir of `depth` layers; `fields` are those of the configuration."""
    config = config_of(**fields)
    exact = np.float64 if config.dtype == "float64" else np.float32
    return Reservoir(layers_of(config, size, depth), config, backend, features_dtype=exact)


@st.composite
def trees(draw: st.DrawFn, most: int = 24) -> Tree:
    """Any tree of up to `most` nodes: chains, stars, random parents; labels of every kind."""
    nodes = draw(st.integers(1, most))
    shape = draw(st.sampled_from(["chain", "star", "any", "comb"]))
    if shape == "chain":
        parents = np.arange(-1, nodes - 1)
    elif shape == "star":
        parents = np.minimum(np.arange(-1, nodes - 1), 0)
    elif shape == "comb":
        parents = np.array([-1] + [max(0, i - 1 - (i % 2)) for i in range(1, nodes)])
    else:
        parents = np.array([-1] + [draw(st.integers(0, i - 1)) for i in range(1, nodes)])
    kind = draw(st.sampled_from(["byte", "vector", "hash"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "byte":
        return Tree.of_parents("byte", rng.integers(0, 256, nodes, dtype=np.uint8), parents)
    if kind == "hash":
        return Tree.of_parents("hash", rng.integers(0, 2**63, (nodes, draw(st.integers(1, 2))), dtype=np.uint64), parents)
    return Tree.of_parents("vector", rng.standard_normal((nodes, draw(st.integers(1, 3)))), parents)
