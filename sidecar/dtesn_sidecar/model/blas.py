"""Which kernels the BLAS under NumPy has chosen for this processor: how small products are best cut up depends on them."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

_NAMES = ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename64_", "openblas_get_corename")
"""As NumPy's wheels export it, then as distributions do."""


@functools.cache
def kernels() -> str | None:
    """OpenBLAS's name for its kernels (`SkylakeX`, `Haswell`, ...); None where NumPy computes with another library."""
    for path in _loaded():
        try:
            library = ctypes.CDLL(path)  # it is loaded: this only takes hold of it
        except OSError:
            continue
        for name in _NAMES:
            if (ask := getattr(library, name, None)) is not None:
                ask.argtypes, ask.restype = (), ctypes.c_char_p
                return str(ask().decode())
    return None


def _loaded() -> list[str]:
    """Files of OpenBLAS that this process has loaded, NumPy's own first (SciPy's wheels bring another)."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    paths = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6 and "openblas" in fields[5]}
    return sorted(paths, key=lambda path: ("numpy" not in path, path))
