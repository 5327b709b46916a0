"""A small model in a temporary folder, and jobs for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.weights import build_layer, save_layer

DEPTH, SIZE = 3, 32


@pytest.fixture(scope="session")
def model() -> ModelConfiguration:
    return ModelConfiguration(membrane_depth=DEPTH, esn_size=SIZE)


@pytest.fixture(scope="session")
def folder_of(model: ModelConfiguration, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders with three layers of 32 and of 64 units."""
    root = tmp_path_factory.mktemp("weights")
    for size in (SIZE, 2 * SIZE):
        for layer in range(1, DEPTH + 1):
            save_layer(root / str(size), layer, build_layer(model, size, layer))
    return lambda size: root / str(size)
