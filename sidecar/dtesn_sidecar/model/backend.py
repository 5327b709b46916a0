"""Array backends: the few operations that a run needs, on NumPy in place or on any array-API library (CuPy).

This is the only file that imports CuPy, and only when asked. The run itself is the same code for all (`reservoir`).
Arrays are [rows, N]; a slice of rows is taken to be a view, as in NumPy and CuPy.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.errors import DTESNError
from dtesn_sidecar.model.blas import kernels
from dtesn_sidecar.model.tiling import MOST_PADDED, WIDEST_PADDED, Cut, cut
from dtesn_sidecar.model.weights import Blocks, Matrix, Ring

log = logging.getLogger(__name__)

Array: TypeAlias = Any
BackendName = Literal["auto", "numpy", "cupy"]


class BackendUnavailable(DTESNError):
    """The backend that was asked for cannot run here; raised at start, never in place of a fall back."""

    code = "backend_unavailable"


class Backend(Protocol):
    """Where states live. Every operation but the transfers writes into `out`, which no operand may overlap but exactly."""

    @property
    def name(self) -> str:
        """`numpy` or the library's name."""

    @property
    def device(self) -> str:
        """The device, in words."""

    def use(self) -> None:
        """Make the device the calling thread's: to be called once in each thread that computes."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array on the device, not initialised."""

    def scalar(self, value: float, dtype: np.dtype[Any]) -> Array:
        """A number as an array without axes on the device."""

    def upload(self, arrays: Mapping[Hashable, NDArray[Any]]) -> dict[Hashable, Array]:
        """Host arrays of one dtype on the device, by the same names, in one transfer."""

    def place_matrix(self, matrix: Matrix) -> Array:
        """A matrix of weights on the device, as `product` takes it."""

    def product(self, rows: Array, matrix: Array, out: Array) -> None:
        """out = rows @ matrix."""

    def product_into(self, matrix: Array, out: Array) -> Callable[[Array], object]:
        """The same for many rows in turn, as many each time as `out` has: what takes them."""

    def add(self, a: Array, b: Array, out: Array) -> object:
        """out = a + b, with broadcasting."""

    def multiply(self, a: Array, b: Array, out: Array) -> object:
        """out = a * b, with broadcasting; b may be a float."""

    def tanh(self, a: Array, out: Array) -> object:
        """out = tanh(a)."""

    def take(self, a: Array, index: Array, out: Array) -> object:
        """out = a[index], rows."""

    def copy(self, a: Array, out: Array) -> None:
        """out = a, with broadcasting; a may be a float."""

    def narrow(self, a: Array, out: Array) -> None:
        """out = a in the dtype of `out`."""

    def sum_steps(self, rows: Array, steps: int, out: Array) -> object:
        """out[k] = the sum of row k of each step, of which each has as many rows as `out`."""

    def sum_by_owner(self, rows: Array, owners: Array, count: int) -> Array:
        """A new array [count, N]: row k is the sum of the rows whose owner is k."""

    def gather_all(self, arrays: Sequence[Array]) -> NDArray[Any]:
        """These arrays [2, k, N] of different k, joined along k and downloaded at once."""


class NumPyBackend:
    """The CPU: every operation in place, in preallocated memory."""

    name = "numpy"
    device = "cpu"

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
        return np.empty(shape, dtype)

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
        self.product_into(matrix, out)(rows)

    def product_into(self, matrix: Array, out: Array) -> Callable[[Array], object]:
        """With every view but that of the rows made once."""
        count = out.shape[0]
        if matrix.ndim == 4:
            halves, windows, width, block = matrix.shape
            views = out.reshape(count, halves, windows, block).transpose(1, 2, 0, 3)
            return lambda rows: np.matmul(rows.reshape(count, windows, width).transpose(1, 0, 2), matrix, views)
        if matrix.ndim == 1:
            return lambda rows: (np.multiply(rows[:, :-1], matrix[1:], out[:, 1:]), np.multiply(rows[:, -1:], matrix[:1], out[:, :1]))
        if (tiles := cut(count, *matrix.shape, self._kernels)) is None:
            return lambda rows: np.matmul(rows, matrix, out)
        if tiles.height == 1:
            row_by_row = out[:, None, :]
            return lambda rows: np.matmul(rows[:, None, :], matrix, row_by_row)
        if tiles.rows == count:
            return self._tiled(matrix, out, tiles)
        padded, computed = self._scratch(tiles.rows, matrix)
        inside, product, result = padded[:count], self._tiled(matrix, computed, tiles), computed[:count]

        def filled_up(rows: Array) -> None:
            inside[...] = rows
            product(padded)
            out[...] = result

        return filled_up

    def _tiled(self, matrix: Array, out: Array, tiles: Cut) -> Callable[[Array], object]:
        outer = matrix.shape[1]
        if outer % tiles.width == 0:  # all strips in one call: strided views of both
            shape = (-1, outer // tiles.width, tiles.width)
            strips, outs = matrix.reshape(shape).transpose(1, 0, 2), out.reshape(shape).transpose(1, 0, 2)
            return lambda rows: np.matmul(rows, strips, outs)
        pairs = [(matrix[:, left : left + tiles.width], out[:, left : left + tiles.width]) for left in range(0, outer, tiles.width)]
        return lambda rows: [np.matmul(rows, strip, into) for strip, into in pairs]

    def _scratch(self, count: int, matrix: Array) -> tuple[Array, Array]:
        """Room for `count` rows of a product, of each thread its own. What is left in rows beyond was states once, and is finite."""
        kept = self._threads.__dict__
        if (pair := kept.get(matrix.dtype)) is None:
            pair = kept[matrix.dtype] = np.zeros((2, MOST_PADDED * WIDEST_PADDED), matrix.dtype)
        inner, outer = matrix.shape
        return pair[0, : count * inner].reshape(count, inner), pair[1, : count * outer].reshape(count, outer)

    def take(self, a: Array, index: Array, out: Array) -> object:
        """Rows, without a bounds check: the indices are the plan's own."""
        return np.take(a, index, axis=0, out=out, mode="clip")

    def copy(self, a: Array, out: Array) -> None:
        """A copy in place."""
        np.copyto(out, a)

    def narrow(self, a: Array, out: Array) -> None:
        """A rounded copy."""
        np.copyto(out, a, casting="same_kind")

    def sum_steps(self, rows: Array, steps: int, out: Array) -> object:
        """Added one after the other."""
        return np.add.reduce(rows.reshape(steps, *out.shape), axis=0, out=out)

    def sum_by_owner(self, rows: Array, owners: Array, count: int) -> Array:
        """By a product with the indicator matrix: cheap beside the step's own products."""
        if count == 1:
            return np.add.reduce(rows, axis=0, keepdims=True)
        return (np.arange(count)[:, None] == owners).astype(rows.dtype) @ rows

    def gather_all(self, arrays: Sequence[Array]) -> NDArray[Any]:
        """Joined along axis 1."""
        return np.concatenate(arrays, axis=1)


class ArrayBackend:
    """Any library of the Python array API standard, through array-api-compat; arrays live on `device` throughout.

    `use` is for libraries that compute on the current device of the thread, wherever their operands are.
    """

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
        xp = self._xp
        if matrix.ndim == 4:
            _, windows, width, _ = matrix.shape
            windowed = xp.permute_dims(xp.reshape(rows, (rows.shape[0], windows, width)), (1, 0, 2))
            products = xp.matmul(windowed[None, ...], matrix)
            out[...] = xp.reshape(xp.permute_dims(products, (2, 0, 1, 3)), out.shape)
        elif matrix.ndim == 1:
            out[...] = xp.roll(rows, 1, axis=1) * matrix
        else:
            out[...] = xp.matmul(rows, matrix)

    def product_into(self, matrix: Array, out: Array) -> Callable[[Array], object]:
        """`product`, nothing made beforehand."""
        return lambda rows: self.product(rows, matrix, out)

    def add(self, a: Array, b: Array, out: Array) -> object:
        """Element by element."""
        out[...] = a + b
        return out

    def multiply(self, a: Array, b: Array, out: Array) -> object:
        """Element by element."""
        out[...] = a * b
        return out

    def tanh(self, a: Array, out: Array) -> object:
        """Element by element."""
        out[...] = self._xp.tanh(a)
        return out

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

    def sum_steps(self, rows: Array, steps: int, out: Array) -> object:
        """One reduction."""
        out[...] = self._xp.sum(self._xp.reshape(rows, (steps, *out.shape)), axis=0)
        return out

    def sum_by_owner(self, rows: Array, owners: Array, count: int) -> Array:
        """By a product with the indicator matrix, made on the device."""
        xp = self._xp
        mine = xp.arange(count, dtype=owners.dtype, device=self._device)[:, None] == owners[None, :]
        return xp.matmul(xp.astype(mine, rows.dtype), rows)

    def gather_all(self, arrays: Sequence[Array]) -> NDArray[Any]:
        """One download."""
        return np.array(self._to_host(self._xp.concat(list(arrays), axis=1)))


def select_backend(name: BackendName = "auto") -> Backend:
    """The backend of this name on its first device. Raises as `select_backends` does."""
    return select_backends(name)[0]


def select_backends(name: BackendName = "auto") -> list[Backend]:
    """The backend of this name, one for each of its devices.

    `auto` takes CuPy where a device is present and NumPy elsewhere, and warns where CuPy is there in vain. Raises
    BackendUnavailable when `cupy` is asked for and is not installed or sees no device.
    """
    if name == "numpy":
        return [NumPyBackend()]
    if name not in ("auto", "cupy"):
        raise BackendUnavailable(f"backend is {name!r}, expected one of auto, numpy, cupy")
    try:
        return _cupy_backends()
    except BackendUnavailable as error:
        if name == "cupy":
            raise
        reason = error.__cause__
        if not (isinstance(reason, ModuleNotFoundError) and reason.name == "cupy"):  # whoever installed it expects a device
            log.warning("CuPy is installed but cannot be used, so NumPy computes: %s", error)
        return [NumPyBackend()]


def _cupy_backends() -> list[Backend]:
    try:
        cupy = importlib.import_module("cupy")
        compat = importlib.import_module("array_api_compat.cupy")
    except ImportError as error:
        raise BackendUnavailable(f"backend cupy: {error}; install dtesn-batcher[gpu]") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"backend cupy: no CUDA device: {error}") from error
    if not count:
        raise BackendUnavailable("backend cupy: no CUDA device is present")
    return [_on_device(cupy, compat, index) for index in range(count)]


def _on_device(cupy: Any, compat: Any, index: int) -> Backend:
    device = cupy.cuda.Device(index)
    described = cupy.cuda.runtime.getDeviceProperties(index)["name"]
    label = described.decode() if isinstance(described, bytes) else str(described)
    return ArrayBackend(compat, device, name="cupy", description=label, to_host=cupy.asnumpy, use=device.use)
