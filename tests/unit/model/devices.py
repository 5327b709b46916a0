"""A device that no test machine lacks: array-api-strict's second one, where an implicit transfer raises; and a CuPy made of it.

Both count what would be launches on a device: calls and operators that compute or copy, but no views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import array_api_strict
import numpy as np

from dtesn_sidecar.model.on_arrays import ArrayBackend, CuPyBackend

DEVICE, HOST = array_api_strict.Device("device1"), array_api_strict.Device("CPU_DEVICE")
VIEWS = {"permute_dims", "broadcast_to"}
OPERATORS = ["__add__", "__sub__", "__mul__", "__matmul__", "__eq__", "__neg__", "__iadd__", "__isub__", "__imul__", "__setitem__"]


class Launches:
    """array-api-strict, whose calls are counted; its operators are while `counting` lasts."""

    def __init__(self) -> None:
        self.launches = 0
        self._inside = False

    def __getattr__(self, name: str) -> Any:
        value = getattr(array_api_strict, name)
        if name == "reshape":
            return self._reshape
        if not callable(value) or isinstance(value, type) or name in VIEWS:
            return value
        return self.launch(value)

    def _reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        found = array_api_strict.reshape(array, shape)
        self.launches += not np.may_share_memory(found._array, array._array)
        return found

    def launch(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Count a call of this once, whatever it calls itself."""

        @functools.wraps(compute)
        def counted(*args: Any, **kwargs: Any) -> Any:
            outermost, self._inside = not self._inside, True
            self.launches += outermost
            try:
                return compute(*args, **kwargs)
            finally:
                self._inside = not outermost

        return counted

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count operators too, from zero."""
        kind = type(array_api_strict.zeros(1))
        patches = [mock.patch.object(kind, name, self.launch(getattr(kind, name))) for name in OPERATORS]
        for patch in patches:
            patch.start()
        try:
            self.launches = 0
            yield
        finally:
            for patch in patches:
                patch.stop()


class CuPy:
    """What the backend takes of CuPy itself, held to what CuPy asks of its arguments. Kernels are read as Python."""

    def __init__(self, library: Launches) -> None:
        self._library = library
        self.dot = library.launch(self._dot)
        self.asnumpy = fetch

    def _dot(self, a: Any, b: Any, out: Any) -> Any:
        assert a.dtype == b.dtype == out.dtype
        assert np.asarray(out._array).flags.c_contiguous
        assert not np.may_share_memory(a._array, out._array), "it would copy"
        out[...] = array_api_strict.matmul(a, b)
        return out

    def ElementwiseKernel(self, in_params: str, out_params: str, operation: str, name: str) -> Callable[..., Any]:
        """A kernel of one statement, whose parameters are all of one type."""
        assert name.isidentifier()
        names = [parameter.split() for parameter in [*in_params.split(","), out_params]]
        assert {kind for kind, _ in names} == {"T"}
        target, expression = (side.strip() for side in operation.split("=", 1))
        assert target == names[-1][1]

        def kernel(*args: Any) -> Any:
            assert len({array.dtype for array in args}) == 1
            values = {name: array for (_, name), array in zip(names, args, strict=True)}
            args[-1][...] = eval(expression, {"tanh": array_api_strict.tanh}, values)  # the backend's own text
            return args[-1]

        return self._library.launch(kernel)


def fetch(array: Any) -> Any:
    """An explicit download."""
    return np.asarray(array_api_strict.asarray(array, device=HOST))


def any_library(library: Launches) -> ArrayBackend:
    """The backend of any array-API library."""
    return ArrayBackend(library, DEVICE, name="array-api-strict", description="device1", to_host=fetch)


def cupy(library: Launches) -> ArrayBackend:
    """The backend of CuPy."""
    return CuPyBackend(CuPy(library), library, DEVICE, description="device1", use=lambda: None)
