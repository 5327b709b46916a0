from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.model.models import layers_of
from tests.unit.model.reference import dense

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.trees import LABEL_ROWS
from dtesn_sidecar.model.weights import (
    FAN_IN,
    Blocks,
    LayerWeights,
    Ring,
    build_layer,
    build_layers,
    echo_state_warning,
    hashed_rows,
    layer_bytes,
    model_bytes,
    open_layer,
    save_layer,
)

TOPOLOGIES = ["orthogonal", "sparse", "ring"]
SIZES = [32, 100, 128]
GOLDEN_INPUT = [-0.8761010444106216, -0.8624772547464576]
GOLDEN_BIAS = [-0.04076094331245701, 0.0006064852842789098]
GOLDEN_RECURRENT = [-0.1339570467808267, -0.046891820508907466]


def config_of(topology: str, **fields: object) -> ModelConfiguration:
    return ModelConfiguration(topology=topology, **{"dtype": "float64", "spectral_radius": 0.8, "inter_scaling": 0.7} | fields)  # type: ignore[arg-type]


def arrays(layer: LayerWeights) -> list[np.ndarray]:
    return [dense(layer.input), dense(layer.recurrent), np.asarray(layer.bias)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("size", SIZES)
def test_weights_have_the_norms_and_bounds_that_the_configuration_says(topology: str, size: int) -> None:
    config = config_of(topology, input_scaling=0.5, bias=0.2)
    first, second = (build_layer(config, size, layer) for layer in (1, 2))
    table = dense(first.input)
    assert table.shape == (LABEL_ROWS, size)
    assert 0.49 < np.abs(table).max() <= 0.5
    assert np.abs(first.bias).max() <= 0.2
    assert np.abs(first.bias).max() > 0.1
    assert np.linalg.norm(dense(second.input), 2) == pytest.approx(0.7, rel=1e-6)
    for layer in (first, second):
        radius = np.abs(np.linalg.eigvals(dense(layer.recurrent))).max()
        assert radius == pytest.approx(0.8, rel=1e-3 if topology == "sparse" else 1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_an_orthogonal_matrix_times_the_radius_has_all_singular_values_equal(size: int) -> None:
    for topology in ("orthogonal", "ring"):
        matrix = dense(build_layer(config_of(topology), size, 2).recurrent)
        np.testing.assert_allclose(matrix @ matrix.T, 0.64 * np.eye(size), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_every_unit_of_the_sparse_topology_has_the_same_fan_in(size: int) -> None:
    layer = build_layer(config_of("sparse"), size, 2)
    for matrix in (layer.input, layer.recurrent):
        assert (np.count_nonzero(dense(matrix), axis=0) == FAN_IN).all()
        assert isinstance(matrix, Blocks) == (size % 32 == 0)


def test_a_ring_is_one_cycle_through_all_units() -> None:
    matrix = dense(build_layer(config_of("ring", spectral_radius=1.0), 32, 1).recurrent)
    unit = np.zeros(32)
    unit[0] = 1.0
    visited = set()
    for _ in range(32):
        visited.add(int(np.argmax(unit)))
        unit = unit @ matrix
    assert len(visited) == 32
    assert unit[0] == 1.0


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_weights_follow_from_seed_size_and_layer_alone(topology: str) -> None:
    base = arrays(build_layer(config_of(topology), 64, 2))
    for other in (config_of(topology), config_of(topology, leak_rate=0.9, order=3, membrane_depth=9, max_nodes=5)):
        for mine, theirs in zip(base, arrays(build_layer(other, 64, 2)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for changed in (build_layer(config_of(topology, seed=43), 64, 2), build_layer(config_of(topology), 64, 3)):
        assert not np.array_equal(base[0], dense(changed.input))
        assert not np.array_equal(base[2], changed.bias)
    scaled = arrays(build_layer(config_of(topology, spectral_radius=0.4, bias=0.0), 64, 2))
    np.testing.assert_array_equal(base[0], scaled[0])
    np.testing.assert_allclose(base[1], 2 * scaled[1], rtol=1e-14)


def test_the_draws_are_these_on_every_machine() -> None:
    layer = build_layer(ModelConfiguration(dtype="float64"), 32, 1)
    np.testing.assert_array_equal(np.asarray(layer.input)[65, :2], GOLDEN_INPUT)
    np.testing.assert_array_equal(np.asarray(layer.bias)[:2], GOLDEN_BIAS)
    np.testing.assert_allclose(np.asarray(layer.recurrent)[0, :2], GOLDEN_RECURRENT, rtol=1e-10)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_single_precision_is_the_double_rounded(topology: str) -> None:
    for double, single in zip(
        arrays(build_layer(config_of(topology), 64, 2)), arrays(build_layer(config_of(topology, dtype="float32"), 64, 2)), strict=True
    ):
        np.testing.assert_array_equal(double.astype(np.float32), single.astype(np.float32))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bytes_of_a_model_are_known_before_it_is_built(topology: str, size: int, dtype: str) -> None:
    config = config_of(topology, dtype=dtype)
    assert model_bytes(config, 3, size) == sum(layer_bytes(layer) for layer in build_layers(config, 3, size))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_saved_layer_is_mapped_read_only_and_equal(topology: str, tmp_path: Path) -> None:
    layer = build_layer(config_of(topology, dtype="float32"), 64, 2)
    save_layer(tmp_path / "model", 2, layer)
    opened = open_layer(tmp_path / "model", 2)
    assert type(opened.input) is type(layer.input) or isinstance(layer.input, np.ndarray)
    for mine, theirs in zip(arrays(layer), arrays(opened), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    raw = opened.input.weights if isinstance(opened.input, Blocks | Ring) else opened.input
    with pytest.raises(ValueError, match="read-only"):
        raw[0] = 0
    with pytest.raises(FileNotFoundError):
        open_layer(tmp_path / "model", 3)


def test_hashed_labels_pick_distinct_signed_rows_of_unit_variance() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, (4096, 2), dtype=np.uint64)
    rows, factors = hashed_rows(hashes)
    assert rows.shape == factors.shape == (4096, 8)
    assert (int(np.min(rows)), int(np.max(rows))) == (0, LABEL_ROWS - 1)
    np.testing.assert_allclose((factors**2).sum(axis=1), 1.0)
    assert (factors > 0).mean() == pytest.approx(0.5, abs=0.02)
    labels = {tuple(sorted(zip(r, f, strict=True))) for r, f in zip(rows.tolist(), factors.tolist(), strict=True)}
    assert len(labels) == 4096
    assert hashed_rows(np.array([[0, 1]], dtype=np.uint64))[0].tolist() == [[0, 0, 0, 0, 1, 0, 0, 0]]


def test_the_echo_state_warning_depends_on_degree_radius_and_aggregation() -> None:
    sure = ModelConfiguration(spectral_radius=0.4)
    assert echo_state_warning(sure, 2) is None
    assert "degree 3" in str(echo_state_warning(sure, 3))
    assert echo_state_warning(ModelConfiguration(spectral_radius=0.4, aggregation_exponent=1.0), 3) is None
    assert echo_state_warning(ModelConfiguration(), 1) is None
    assert echo_state_warning(ModelConfiguration(spectral_radius=1.0), 0) is not None


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_weights_drawn_or_mapped_begin_at_a_cache_line(topology: str, tmp_path: Path) -> None:
    layers = layers_of(ModelConfiguration(topology=topology), 96, 2)
    for layer, weights in enumerate(layers, start=1):
        save_layer(tmp_path, layer, weights)
        for held in (weights, open_layer(tmp_path, layer)):
            arrays = [matrix.weights if isinstance(matrix, Blocks | Ring) else matrix for matrix in (held.input, held.recurrent)]
            assert [array.ctypes.data % 64 for array in [*arrays, held.bias]] == [0, 0, 0]
