"""Every text's answer when it is computed alone: by the library in this process, without a server, a batch or a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.backend import select_backend
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.reservoir import Reservoir, RunItem
from dtesn_sidecar.model.weights import build_layers

TOLERANCE = 2e-6  # float32, alone or in any batch


def features_alone(texts: Sequence[str], config: ModelConfiguration, advance: Callable[[], object] = lambda: None) -> NDArray[np.float32]:
    """Features [texts, L, 2, N], each of a run of its own. `advance` is called after each."""
    layers = list(build_layers(config, config.membrane_depth, config.esn_size))
    reservoir = Reservoir(layers, config, select_backend("numpy"))
    found = []
    for text in texts:
        run = reservoir.start()
        run.admit([RunItem(0, parse_input(text, "text", max_nodes=config.max_nodes), config.membrane_depth)])
        while run.active:
            for result in run.advance():
                if isinstance(result.features, Exception):
                    raise result.features
                found.append(np.asarray(result.features, dtype=np.float32))
        advance()
    return np.stack(found)


def write_features(file: Path, features: NDArray[np.float32]) -> None:
    """For answers with `output: features`."""
    np.savez(file, answers=features.reshape(len(features), -1), tolerance=np.float64(TOLERANCE))


def write_summaries(file: Path, features: NDArray[np.float32], texts: Sequence[str]) -> None:
    """For answers with `output: summary`, in the order of `bench.loadgen.values`: the nodes; norm and mean of each state.

    Features that differ by at most t give norms that differ by at most t sqrt(N), and means by at most t. The number of
    nodes must be equal.
    """
    exact = features.astype(np.float64)
    norm, mean = np.linalg.norm(exact, axis=-1), exact.mean(axis=-1)
    pairs = np.stack([norm, mean], axis=-1).reshape(len(texts), -1)
    nodes = np.array([[len(text.encode())] for text in texts], dtype=np.float64)
    bounds = np.tile([TOLERANCE * np.sqrt(features.shape[-1]), TOLERANCE], pairs.shape[1] // 2)
    np.savez(file, answers=np.hstack([nodes, pairs]), tolerance=np.concatenate([[0.0], bounds]))
