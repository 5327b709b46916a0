"""The backend of the CPU: NumPy, every operation in place, products cut up as the BLAS's kernels like them (`tiling`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.model import aligned
from dtesn_sidecar.model.blas import kernels
from dtesn_sidecar.model.tiling import MOST_PADDED, WIDEST_PADDED, Cut, cut
from dtesn_sidecar.model.weights import Blocks, Matrix, Ring

Array: TypeAlias = Any


class NumPyBackend:
    """The CPU: every operation in place, in preallocated memory."""

    name = "numpy"
    device = "cpu"
    calls_count = False

    add = staticmethod(np.add)
    multiply = staticmethod(np.multiply)
    tanh = staticmethod(np.tanh)

    def __init__(self, blas: str | None = None) -> None:
        """For these kernels of the BLAS; None: for those that it has chosen."""
        self._kernels = blas or kernels()
        self._threads = threading.local()

    def use(self) -> None:
        """Any thread is on the CPU."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory of this process."""
        return aligned.empty(shape, dtype)

    def scalar(self, value: float, dtype: np.dtype[Any]) -> Array:
        """An array without axes."""
        return np.array(value, dtype)

    def upload(self, arrays: Mapping[Hashable, NDArray[Any]]) -> dict[Hashable, Array]:
        """The arrays themselves."""
        return dict(arrays)

    def place_matrix(self, matrix: Matrix) -> Array:
        """Its array: dense [N, N], blocks [2, N / 32, 32, 16] or ring [N]."""
        return matrix.weights if isinstance(matrix, Blocks | Ring) else matrix

    def product(self, rows: Array, matrix: Array, out: Array) -> None:
        """One BLAS product, or tiles of it (`tiling`), or small ones over strided views of blocks."""
        if (found := self.products(matrix, out)(rows)) is not out:
            out[...] = found

    def products(self, matrix: Array, out: Array) -> Callable[[Array], Array]:
        """With every view but that of the rows made once."""
        count = out.shape[0]
        if matrix.ndim == 4:
            halves, windows, width, block = matrix.shape
            views = out.reshape(count, halves, windows, block).transpose(1, 2, 0, 3)
            return _giving(out, lambda rows: np.matmul(rows.reshape(count, windows, width).transpose(1, 0, 2), matrix, views))
        if matrix.ndim == 1:
            return _giving(
                out, lambda rows: (np.multiply(rows[:, :-1], matrix[1:], out[:, 1:]), np.multiply(rows[:, -1:], matrix[:1], out[:, :1]))
            )
        if (tiles := cut(count, *matrix.shape, self._kernels)) is None:
            return lambda rows: np.matmul(rows, matrix, out)
        if tiles.height == 1:
            row_by_row = out[:, None, :]
            return _giving(out, lambda rows: np.matmul(rows[:, None, :], matrix, row_by_row))
        if tiles.rows == count:
            return _giving(out, _tiled(matrix, out, tiles))
        padded, computed = self._scratch(tiles.rows, matrix)
        inside, product, result = padded[:count], _tiled(matrix, computed, tiles), computed[:count]

        def filled_up(rows: Array) -> Array:
            inside[...] = rows
            product(padded)
            return result

        return filled_up

    def _scratch(self, count: int, matrix: Array) -> tuple[Array, Array]:
        """Room for `count` rows of a product, of each thread its own. What is left in rows beyond was states once, and is finite."""
        kept = self._threads.__dict__
        if (pair := kept.get(matrix.dtype)) is None:
            pair = kept[matrix.dtype] = aligned.empty((2, MOST_PADDED * WIDEST_PADDED), matrix.dtype)
            pair[...] = 0
        inner, outer = matrix.shape
        return pair[0, : count * inner].reshape(count, inner), pair[1, : count * outer].reshape(count, outer)

    def leak(self, state: Array, drive: Array, held: Array, leak: Array, keep: Array) -> object:
        """Five passes over what the core's cache holds."""
        np.add(drive, state, drive)
        np.tanh(drive, drive)
        np.multiply(drive, leak, drive)
        np.multiply(held, keep, state)
        return np.add(state, drive, state)

    def take(self, a: Array, index: Array, out: Array) -> object:
        """Rows, without a bounds check: the indices are the plan's own."""
        return np.take(a, index, axis=0, out=out, mode="clip")

    def copy(self, a: Array, out: Array) -> None:
        """A copy in place."""
        np.copyto(out, a)

    def narrow(self, a: Array, out: Array) -> None:
        """A rounded copy."""
        np.copyto(out, a, casting="same_kind")

    def add_steps(self, rows: Array, steps: int, total: Array, scratch: Array) -> object:
        """Added one after the other."""
        if steps == 1:
            return np.add(total, rows, total)
        np.add.reduce(rows.reshape(steps, *total.shape), axis=0, out=scratch)
        return np.add(total, scratch, total)

    def sum_by_owner(self, rows: Array, owners: Array, count: int) -> Array:
        """By a product with the indicator matrix: cheap beside the step's own products."""
        if count == 1:
            return np.add.reduce(rows, axis=0, keepdims=True)
        return (np.arange(count)[:, None] == owners).astype(rows.dtype) @ rows

    def gather_all(self, arrays: Sequence[Array]) -> NDArray[Any]:
        """Joined along axis 1."""
        return np.concatenate(arrays, axis=1)


def _giving(out: Array, compute: Callable[[Array], object]) -> Callable[[Array], Array]:
    def computed(rows: Array) -> Array:
        compute(rows)
        return out

    return computed


def _tiled(matrix: Array, out: Array, tiles: Cut) -> Callable[[Array], object]:
    outer = matrix.shape[1]
    if outer % tiles.width == 0:  # all strips in one call: strided views of both
        shape = (-1, outer // tiles.width, tiles.width)
        strips, outs = matrix.reshape(shape).transpose(1, 0, 2), out.reshape(shape).transpose(1, 0, 2)
        return lambda rows: np.matmul(rows, strips, outs)
    pairs = [(matrix[:, left : left + tiles.width], out[:, left : left + tiles.width]) for left in range(0, outer, tiles.width)]
    return lambda rows: [np.matmul(rows, strip, into) for strip, into in pairs]
