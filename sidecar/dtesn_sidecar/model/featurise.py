"""Many trees through one reservoir, as many at once as the node budget allows: for the command line, fitting and estimators.

The run is `reservoir`'s. A server does not come here: its batches are the manager's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.model.reservoir import Reservoir, RunItem, RunResult
from dtesn_sidecar.model.weights import build_layer

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_sidecar.model.backend import Backend
    from dtesn_sidecar.model.trees import Tree

MAX_NODES: Final = 65_536
"""Nodes that are computed together."""

_SLICE_COST: Final = 1000.0
"""Length of a slice in units of its predicted cost: about a tenth of a second for the default model on one core."""


def reservoir_of(
    model: ModelConfiguration,
    backend: Backend | None = None,
    *,
    drawn: Callable[[int], None] = lambda _count: None,
    features_dtype: type[np.floating[Any]] = np.float32,
) -> Reservoir:
    """The reservoir of a model; `drawn` is told of each layer."""
    layers = []
    for layer in range(1, model.membrane_depth + 1):
        layers.append(build_layer(model, model.esn_size, layer))
        drawn(1)
    return Reservoir(layers, model, backend, features_dtype=features_dtype)


def featurise(reservoir: Reservoir, trees: Iterable[tuple[int, Tree]], max_nodes: int = MAX_NODES) -> Iterator[list[RunResult]]:
    """The results of each slice, by the numbers that come with the trees. A tree is taken when there is room for it.

    At most `max_nodes` nodes (or one tree) are under way, so that memory does not grow with the number of trees. Slices are cut by cost and
    not by the clock: the same trees give the same features to the last bit, however busy the machine is.
    """
    ticks = count()
    run, waiting = reservoir.start(lambda: float(next(ticks))), iter(trees)
    sizes: dict[int, int] = {}
    nodes = 0
    following = next(waiting, None)
    while run.active or following is not None:
        admitted = []
        while following is not None and (not sizes or nodes + following[1].nodes <= max_nodes):
            number, tree = following
            admitted.append(RunItem(number, tree, reservoir.depth))
            sizes[number] = tree.nodes
            nodes += tree.nodes
            following = next(waiting, None)
        run.admit(admitted)
        reservoir.seconds_per_cost = 1.0 / _SLICE_COST  # of the clock above, by which every slice takes one second
        results = run.advance(1.0)
        nodes -= sum(sizes.pop(result.id) for result in results)
        yield results


def feature_matrix(
    reservoir: Reservoir,
    trees: Iterable[Tree],
    out: NDArray[Any],
    *,
    max_nodes: int = MAX_NODES,
    done: Callable[[int], None] = lambda _count: None,
) -> NDArray[Any]:
    """Features of every tree as a row of `out` [n, 2 * depth * N]; `done` is told how many came. Raises what a tree raised."""
    for results in featurise(reservoir, enumerate(trees), max_nodes):
        for result in results:
            if isinstance(result.features, Exception):
                raise result.features
            out[result.id] = result.features.reshape(-1)
        done(len(results))
    return out
