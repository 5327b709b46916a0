"""Backends of any array-API library, and of CuPy, where each call is a launch that costs more than what it computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.model.weights import Blocks, Matrix, Ring

Array: TypeAlias = Any


class ArrayBackend:
    """Any library of the Python array API standard, through array-api-compat; arrays live on `device` throughout.

    `use` is for libraries that compute on the current device of the thread, wherever their operands are.
    """

    calls_count = True

    def __init__(
        self,
        xp: Any,
        device: Any = None,
        *,
        name: str,
        description: str,
        to_host: Any = np.asarray,
        use: Callable[[], object] | None = None,
    ) -> None:
        self._xp, self._device, self._to_host, self._use = xp, device, to_host, use
        self.name, self.device = name, description

    def use(self) -> None:
        """Make the device the current one, where the library has such a thing."""
        if self._use is not None:
            self._use()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Zeros: some libraries fill anyway."""
        return self._xp.zeros(shape, dtype=getattr(self._xp, dtype.name), device=self._device)

    def scalar(self, value: float, dtype: np.dtype[Any]) -> Array:
        """An array without axes on the device."""
        return self._xp.asarray(value, dtype=getattr(self._xp, dtype.name), device=self._device)

    def upload(self, arrays: Mapping[Hashable, NDArray[Any]]) -> dict[Hashable, Array]:
        """Joined, moved in one transfer, and cut apart on the device."""
        if not arrays:
            return {}
        joined = self._place(np.concatenate([array.reshape(-1) for array in arrays.values()]))
        placed, at = {}, 0
        for name, array in arrays.items():
            placed[name] = self._xp.reshape(joined[at : at + array.size], array.shape)
            at += array.size
        return placed

    def _place(self, array: NDArray[Any]) -> Array:
        return self._xp.asarray(array, dtype=getattr(self._xp, array.dtype.name), device=self._device, copy=True)

    def place_matrix(self, matrix: Matrix) -> Array:
        """Its array: dense [N, N], blocks [2, N / 32, 32, 16] or ring [N]."""
        return self._place(matrix.weights if isinstance(matrix, Blocks | Ring) else matrix)

    def product(self, rows: Array, matrix: Array, out: Array) -> None:
        """One product, batched over blocks where the matrix has them."""
        out[...] = self._product(rows, matrix)

    def products(self, matrix: Array, out: Array) -> Callable[[Array], Array]:
        """Each in an array of its own, which saves a copy."""
        return lambda rows: self._product(rows, matrix)

    def _product(self, rows: Array, matrix: Array) -> Array:
        xp = self._xp
        if matrix.ndim == 4:
            count, (_, windows, width, _) = rows.shape[0], matrix.shape
            windowed = xp.permute_dims(xp.reshape(rows, (count, windows, width)), (1, 0, 2))
            return xp.reshape(xp.permute_dims(xp.matmul(windowed[None, ...], matrix), (2, 0, 1, 3)), rows.shape)
        if matrix.ndim == 1:
            return xp.roll(rows, 1, axis=1) * matrix
        return xp.matmul(rows, matrix)

    def add(self, a: Array, b: Array, out: Array) -> object:
        """Element by element; in place, in one launch, where `out` is `a`."""
        if out is a:
            out += b
        else:
            out[...] = a + b
        return out

    def multiply(self, a: Array, b: Array, out: Array) -> object:
        """Element by element; in place, in one launch, where `out` is `a`."""
        if out is a:
            out *= b
        else:
            out[...] = a * b
        return out

    def tanh(self, a: Array, out: Array) -> object:
        """Element by element."""
        out[...] = self._xp.tanh(a)
        return out

    def leak(self, state: Array, drive: Array, held: Array, leak: Array, keep: Array) -> object:
        """In place, as far as the standard goes: six launches."""
        state += drive
        moved = self._xp.tanh(state)
        moved *= leak
        moved += held * keep
        state[...] = moved
        return state

    def take(self, a: Array, index: Array, out: Array) -> object:
        """Rows."""
        out[...] = self._xp.take(a, index, axis=0)
        return out

    def copy(self, a: Array, out: Array) -> None:
        """A copy on the device."""
        out[...] = a

    def narrow(self, a: Array, out: Array) -> None:
        """A rounded copy on the device."""
        out[...] = self._xp.astype(a, out.dtype)

    def add_steps(self, rows: Array, steps: int, total: Array, scratch: Array) -> object:
        """One reduction, and its sum with the total."""
        total += rows if steps == 1 else self._xp.sum(self._xp.reshape(rows, (steps, *total.shape)), axis=0)
        return total

    def sum_by_owner(self, rows: Array, owners: Array, count: int) -> Array:
        """By a product with the indicator matrix, made on the device."""
        xp = self._xp
        mine = xp.arange(count, dtype=owners.dtype, device=self._device)[:, None] == owners[None, :]
        return xp.matmul(xp.astype(mine, rows.dtype), rows)

    def gather_all(self, arrays: Sequence[Array]) -> NDArray[Any]:
        """One download."""
        return np.array(self._to_host(self._xp.concat(list(arrays), axis=1)))


LEAK = "state = keep * held + leak * tanh(drive + state)"
"""The update of a state, element by element, as CUDA C++ reads it (and Python, which the tests have compute it)."""


class CuPyBackend(ArrayBackend):
    """CuPy on one device: what a step does most is two launches, the product and one kernel for all the rest.

    A graph of launches would make them cheaper yet, but CuPy refuses cuBLAS while it captures one (13.6, 14.2).
    """

    def __init__(self, cupy: Any, xp: Any, device: Any, *, description: str, use: Callable[[], object]) -> None:
        super().__init__(xp, device, name="cupy", description=description, to_host=cupy.asnumpy, use=use)
        self._dot = cupy.dot
        self._leak = cupy.ElementwiseKernel("T drive, T held, T leak, T keep", "T state", LEAK, "dtesn_leak")

    def product(self, rows: Array, matrix: Array, out: Array) -> None:
        """A dense one by cuBLAS into its place, without what `matmul` weighs in Python first."""
        if matrix.ndim == 2:
            self._dot(rows, matrix, out)
        else:
            super().product(rows, matrix, out)

    def products(self, matrix: Array, out: Array) -> Callable[[Array], Array]:
        """Dense ones likewise."""
        if matrix.ndim == 2:
            return lambda rows: self._dot(rows, matrix, out)
        return super().products(matrix, out)

    def leak(self, state: Array, drive: Array, held: Array, leak: Array, keep: Array) -> object:
        """One launch."""
        return self._leak(drive, held, leak, keep, state)
