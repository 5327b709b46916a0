"""The weights of a layer: drawn, scaled, sized, saved and mapped.

Every draw is float64 by PCG64, seeded by (seed, N, layer) and the part alone, then cast: equal on every machine and
backend, and the first d layers of a deeper model are the model of depth d. Matrices are kept for rows of states:
`x @ matrix`, so matrix[k, n] is the weight from k to unit n.

W_1 has LABEL_ROWS rows, one per input: byte b picks row b; a vector of width d uses rows 0..d-1; a hashed label is
the signed sum described at `hashed_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model import aligned
from dtesn_sidecar.model.trees import LABEL_ROWS

FAN_IN = 10
"""Inputs of each unit in the sparse topology."""

ROWS_PER_HASH = 4
"""Rows of W_1 that one hashed part of a label combines."""

_BLOCK = 16

Array: TypeAlias = NDArray[Any]
_INPUT, _RECURRENT, _BIAS, _START = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A sparse matrix with fan-in FAN_IN as small dense products: `weights` [2, N / 32, 32, 16].

    Units stand in blocks of 16. Block j reads the blocks 2j and 2j + 1 (modulo their number): a de Bruijn graph, in which
    every block reaches every other in log2(N / 16) steps and both sides of the product are plain strided views. Each unit
    has FAN_IN inputs among those 32; the other weights are 0. Halves h of the blocks: j = h * N / 32 + k reads window k.
    """

    weights: Array

    def dense(self) -> Array:
        """The same matrix as [N, N]."""
        halves, windows, width, block = self.weights.shape
        matrix = np.zeros((windows, width, halves, windows, block), dtype=self.weights.dtype)
        for window in range(windows):
            matrix[window, :, :, window] = self.weights[:, window].swapaxes(0, 1)
        return matrix.reshape(windows * width, windows * width)


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """A cyclic permutation with weights [N]: (x @ matrix)[j] = weights[j] * x[j - 1]."""

    weights: Array

    def dense(self) -> Array:
        """The same matrix as [N, N]."""
        return np.roll(np.diag(self.weights), -1, axis=0)


Matrix: TypeAlias = Array | Blocks | Ring


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One layer: `input` [LABEL_ROWS or N, N], `recurrent` [N, N] (dense or not) and `bias` [N]."""

    input: Matrix
    recurrent: Matrix
    bias: Array


def build_layer(config: ModelConfiguration, esn_size: int, layer: int) -> LayerWeights:
    """Draw layer `layer` (1 is the lowest) of `esn_size` units.

    W_1 uniform within +-input_scaling, higher W uniform and scaled to norm inter_scaling, recurrent orthogonal,
    sparse or a ring, scaled to spectral_radius, bias uniform within +-bias. In the sparse topology the matrices between layers have
    fan-in FAN_IN too.
    """
    n, dtype = esn_size, np.dtype(config.dtype)
    generator = _generators(config.seed, n, layer)
    if layer == 1:
        inputs: Matrix = _cast(generator(_INPUT).uniform(-config.input_scaling, config.input_scaling, (LABEL_ROWS, n)), dtype)
    elif config.topology == "sparse":
        sparse = _draw_sparse(generator(_INPUT), n)
        norm = _norm(sparse.apply, sparse.apply_transposed, generator(_START).standard_normal(n))
        inputs = sparse.scaled(config.inter_scaling / norm, dtype)
    else:
        dense = generator(_INPUT).uniform(-1.0, 1.0, (n, n))
        dense *= config.inter_scaling / _norm(lambda x: x @ dense, lambda x: x @ dense.T, generator(_START).standard_normal(n))
        inputs = _cast(dense, dtype)
    return LayerWeights(inputs, _recurrent(config, n, generator), _cast(generator(_BIAS).uniform(-config.bias, config.bias, n), dtype))


def _generators(seed: int, n: int, layer: int) -> Callable[[int], np.random.Generator]:
    return lambda part: np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, n, layer], spawn_key=(part,))))


def _recurrent(config: ModelConfiguration, n: int, generator: Callable[[int], np.random.Generator]) -> Matrix:
    dtype = np.dtype(config.dtype)
    if config.topology == "ring":
        return Ring(_cast(np.full(n, config.spectral_radius), dtype))
    if config.topology == "sparse":
        sparse = _draw_sparse(generator(_RECURRENT), n)
        return sparse.scaled(config.spectral_radius / _radius(sparse.apply, generator(_START).standard_normal((4, n))), dtype)
    q, r = np.linalg.qr(generator(_RECURRENT).standard_normal((n, n)))
    q *= np.where(np.diagonal(r) < 0, -config.spectral_radius, config.spectral_radius)
    return _cast(q, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Sparse:
    """Unit j reads units sources[:, j] with weights[:, j]; both [FAN_IN, N]."""

    sources: NDArray[np.intp]
    weights: NDArray[np.float64]

    def apply(self, x: Array) -> Array:
        """x @ matrix for x [..., N]."""
        summed: Array = np.einsum("kn,...kn->...n", self.weights, x[..., self.sources])
        return summed

    def apply_transposed(self, x: Array) -> Array:
        """x @ matrix.T for x [N]."""
        moved: Array = np.bincount(self.sources.reshape(-1), weights=(self.weights * x).reshape(-1), minlength=x.shape[0])
        return moved

    def scaled(self, factor: float, dtype: np.dtype[Any]) -> Matrix:
        """As Blocks where N allows, else dense."""
        n = self.weights.shape[1]
        units = np.arange(n)
        if n % (2 * _BLOCK):
            matrix = np.zeros((n, n))
            matrix[self.sources, units] = self.weights * factor
            return _cast(matrix, dtype)
        windows = n // (2 * _BLOCK)
        half, window = np.divmod(units // _BLOCK, windows)
        weights = np.zeros((2, windows, 2 * _BLOCK, _BLOCK))
        weights[half, window, self.sources - window * 2 * _BLOCK, units % _BLOCK] = self.weights * factor
        return Blocks(_cast(weights, dtype))


def _draw_sparse(generator: np.random.Generator, n: int) -> _Sparse:
    """FAN_IN different inputs for each unit: of the 32 that its block reads where N is a multiple of 32, else of all."""
    among = n if n % (2 * _BLOCK) else 2 * _BLOCK
    picked = np.argsort(generator.random((n, among)), axis=1, kind="stable")[:, :FAN_IN].T
    if among < n:
        picked = picked + (np.arange(n) // _BLOCK % (n // among)) * among
    return _Sparse(picked, generator.uniform(-1.0, 1.0, (FAN_IN, n)))


def _cast(array: NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    return _frozen(aligned.copy(array, dtype))


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _norm(apply: Callable[[Array], Array], apply_transposed: Callable[[Array], Array], start: NDArray[np.float64]) -> float:
    """Largest singular value by Lanczos with full reorthogonalisation (Golub & Van Loan, 10.1): no SVD of N^3."""
    steps = min(start.shape[0], 96)
    basis = np.zeros((steps, start.shape[0]))
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    vector = start / np.linalg.norm(start)
    for i in range(steps):
        basis[i] = vector
        vector = apply_transposed(apply(vector))
        diagonal[i] = vector @ basis[i]
        for _ in range(2):
            vector = vector - (basis[: i + 1] @ vector) @ basis[: i + 1]
        beside[i] = np.linalg.norm(vector)
        if beside[i] <= 1e-12 * np.max(np.abs(diagonal[: i + 1])):
            diagonal, beside = diagonal[: i + 1], beside[: i + 1]
            break
        vector = vector / beside[i]
    small = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    return float(np.sqrt(np.linalg.eigvalsh(small)[-1]))


def _radius(apply: Callable[[Array], Array], rows: NDArray[np.float64]) -> float:
    """Spectral radius as the growth of A^k v, the slope of its logarithm over 4,000 steps: no eigensolver of N^3."""
    steps = 4000
    growth = np.zeros(steps)
    for i in range(steps):
        rows = apply(rows)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / norms
        growth[i] = np.log(norms).mean()
    late = np.cumsum(growth)[steps // 4 :]
    return float(np.exp(np.polyfit(np.arange(late.shape[0]), late, 1)[0]))


def hashed_rows(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Rows of W_1 and their factors for hashed labels [n, c]: two arrays [n, c * ROWS_PER_HASH].

    Each hashed part picks ROWS_PER_HASH rows by 10 bits each and their signs by one bit each; the factor
    1 / sqrt(c * ROWS_PER_HASH) keeps the variance of one row. Given (seed, N) the label's input is fixed; two labels coincide
    with probability near 1e-12 for each part.
    """
    nodes, parts = hashes.shape
    bits = np.arange(ROWS_PER_HASH, dtype=np.uint64)[None, None, :]
    rows = (hashes[:, :, None] >> (bits * np.uint64(10))) % np.uint64(LABEL_ROWS)
    signs = 1.0 - 2.0 * ((hashes[:, :, None] >> (bits + np.uint64(10 * ROWS_PER_HASH))) & np.uint64(1)).astype(np.float64)
    factor = 1.0 / np.sqrt(parts * ROWS_PER_HASH)
    return rows.astype(np.int32).reshape(nodes, -1), (signs * factor).reshape(nodes, -1)


def model_bytes(config: ModelConfiguration, depth: int, esn_size: int) -> int:
    """Bytes of the weights of `depth` layers, known before any is drawn."""
    n, item = esn_size, np.dtype(config.dtype).itemsize
    square = n * n * item
    thin = square if n % (2 * _BLOCK) else 2 * _BLOCK * n * item
    recurrent = {"orthogonal": square, "sparse": thin, "ring": n * item}[config.topology]
    between = thin if config.topology == "sparse" else square
    return LABEL_ROWS * n * item + (depth - 1) * between + depth * (recurrent + n * item)


def layer_bytes(weights: LayerWeights) -> int:
    """Bytes of one layer's arrays."""
    return sum(array.nbytes for array in _arrays(weights).values())


def save_layer(folder: Path, layer: int, weights: LayerWeights) -> None:
    """Write layer `layer` into `folder`; a reader sees each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in _arrays(weights).items():
        partial = folder / f".{layer}.{name}.partial.npy"
        np.save(partial, array, allow_pickle=False)
        partial.replace(folder / f"{layer}.{name}.npy")


def open_layer(folder: Path, layer: int) -> LayerWeights:
    """Layer `layer` of `save_layer`, mapped read-only: processes that open it share the pages. FileNotFoundError without it.

    Mapped arrays are aligned too: a file's values begin at a multiple of 64 bytes.
    """
    return LayerWeights(_open_matrix(folder, layer, "input"), _open_matrix(folder, layer, "recurrent"), _map(folder, layer, "bias"))


def build_layers(config: ModelConfiguration, depth: int, esn_size: int) -> Iterable[LayerWeights]:
    """Layers 1..depth, drawn one at a time as they are asked for."""
    return (build_layer(config, esn_size, layer) for layer in range(1, depth + 1))


_KINDS: dict[str, Callable[[Array], Matrix]] = {"dense": lambda array: array, "blocks": Blocks, "ring": Ring}


def _arrays(weights: LayerWeights) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, matrix in (("input", weights.input), ("recurrent", weights.recurrent)):
        kind = {Blocks: "blocks", Ring: "ring"}.get(type(matrix), "dense")
        arrays[f"{name}.{kind}"] = matrix.weights if isinstance(matrix, Blocks | Ring) else matrix
    return arrays | {"bias": weights.bias}


def _open_matrix(folder: Path, layer: int, name: str) -> Matrix:
    for kind, make in _KINDS.items():
        if (folder / f"{layer}.{name}.{kind}.npy").exists():
            return make(_map(folder, layer, f"{name}.{kind}"))
    raise FileNotFoundError(f"no {name} matrix of layer {layer} in {folder}")


def _map(folder: Path, layer: int, name: str) -> Array:
    return np.asarray(np.load(folder / f"{layer}.{name}.npy", mmap_mode="r", allow_pickle=False))


def echo_state_warning(config: ModelConfiguration, degree: int) -> str | None:
    """Why trees of up to `degree` children a node may lose the echo state property, or None.

    It holds for degree^(1 - aggregation_exponent) * spectral_radius < 1; beyond that the state may keep a trace of its start.
    """
    gain = float(max(degree, 1) ** (1.0 - config.aggregation_exponent) * config.spectral_radius)
    if gain < 1.0:
        return None
    return (
        f"degree {degree} with spectral_radius {config.spectral_radius:g} and aggregation_exponent {config.aggregation_exponent:g} "
        f"has gain {gain:.3g}, and the echo state property is only sure below 1"
    )
