"""The model as its equations read: float64, one node after the other, no batching. The oracle of the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.steps import tableau
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import Blocks, LayerWeights, Matrix, Ring, hashed_rows

Floats = NDArray[np.float64]


def dense(matrix: Matrix) -> Floats:
    return np.asarray(matrix.dense() if isinstance(matrix, Blocks | Ring) else matrix, dtype=np.float64)


def label_inputs(tree: Tree, table: Floats) -> Floats:
    """W_1 i_1(v) for every node."""
    if tree.kind == "byte":
        return np.asarray(table[tree.labels])
    if tree.kind == "vector":
        return np.asarray(tree.labels @ table[: tree.width])
    rows, factors = hashed_rows(tree.labels)
    return np.asarray(np.einsum("nk,nkj->nj", factors, table[rows]))


def states(tree: Tree, layers: list[LayerWeights], config: ModelConfiguration, depth: int) -> list[Floats]:
    """The states [nodes, N] of every layer, nodes as the tree orders them (the root last)."""
    parents, _ = tree.links
    children: list[list[int]] = [[] for _ in range(tree.nodes)]
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            children[parent].append(node)
    a, gamma = config.leak_rate, config.aggregation_exponent
    stages, weights = tableau(config.order)
    found: list[Floats] = []
    for layer in layers[:depth]:
        matrix, recurrent, bias = dense(layer.input), dense(layer.recurrent), np.asarray(layer.bias, dtype=np.float64)
        drive = label_inputs(tree, matrix) if not found else found[-1] @ matrix
        x = np.zeros((tree.nodes, bias.shape[0]))
        for node in range(tree.nodes):
            below = children[node]
            m = len(below)
            start = sum((x[c] for c in below), start=np.zeros(bias.shape[0]))
            gain = 1.0
            if m:
                gain = m ** (1.0 - gamma)
                start = start / m
            slopes: list[Floats] = []
            for row in stages:
                at = start + a * sum((w * k for w, k in zip(row, slopes, strict=True)), start=np.zeros_like(start))
                slopes.append(-at + np.tanh(drive[node] + gain * (at @ recurrent) + bias))
            x[node] = start + a * sum(w * k for w, k in zip(weights, slopes, strict=True))
        found.append(x)
    return found


def features(tree: Tree, layers: list[LayerWeights], config: ModelConfiguration, depth: int) -> Floats:
    """[depth, 2, N]: root state, mean state."""
    return np.stack([np.stack([x[-1], x.mean(axis=0)]) for x in states(tree, layers, config, depth)])
