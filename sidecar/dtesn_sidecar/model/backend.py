"""Array backends: the few operations that a run needs, and which of them computes here.

They run on NumPy in place (`on_numpy`), or on any array-API library and on CuPy (`on_arrays`). This is the only file that imports CuPy,
and only when asked. The run itself is the same code for all (`reservoir`). Arrays are [rows, N]; a slice of rows is taken to be a view,
as in NumPy and CuPy.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.errors import DTESNError
from dtesn_sidecar.model.on_arrays import Array, ArrayBackend, CuPyBackend
from dtesn_sidecar.model.on_numpy import NumPyBackend
from dtesn_sidecar.model.weights import Matrix

__all__ = ["Array", "ArrayBackend", "Backend", "BackendName", "BackendUnavailable", "NumPyBackend", "select_backend", "select_backends"]

log = logging.getLogger(__name__)

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

    @property
    def calls_count(self) -> bool:
        """Whether a call costs more than what it computes: then few calls are best, whatever each reads."""

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

    def products(self, matrix: Array, out: Array) -> Callable[[Array], Array]:
        """The same for many rows in turn, as many each time as `out` has: what takes them, and gives `out` or an array of its own."""

    def add(self, a: Array, b: Array, out: Array) -> object:
        """out = a + b, with broadcasting."""

    def multiply(self, a: Array, b: Array, out: Array) -> object:
        """out = a * b, with broadcasting; b may be a float."""

    def tanh(self, a: Array, out: Array) -> object:
        """out = tanh(a)."""

    def leak(self, state: Array, drive: Array, held: Array, leak: Array, keep: Array) -> object:
        """state = keep * held + leak * tanh(drive + state); what `drive` holds then is anybody's guess."""

    def take(self, a: Array, index: Array, out: Array) -> object:
        """out = a[index], rows."""

    def copy(self, a: Array, out: Array) -> None:
        """out = a, with broadcasting; a may be a float."""

    def narrow(self, a: Array, out: Array) -> None:
        """out = a in the dtype of `out`."""

    def add_steps(self, rows: Array, steps: int, total: Array, scratch: Array) -> object:
        """total[k] += the sum of row k of each step, of which each has as many rows as `total` and `scratch`."""

    def sum_by_owner(self, rows: Array, owners: Array, count: int) -> Array:
        """A new array [count, N]: row k is the sum of the rows whose owner is k."""

    def gather_all(self, arrays: Sequence[Array]) -> NDArray[Any]:
        """These arrays [2, k, N] of different k, joined along k and downloaded at once."""


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
    return CuPyBackend(cupy, compat, device, description=label, use=device.use)
