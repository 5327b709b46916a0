"""scikit-learn's checks of the estimators with other kernels of OpenBLAS than this processor's own: only rounding may differ."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy  # noqa: F401 - it loads the BLAS that is asked for its kernels here
import pytest

from dtesn_sidecar.model.blas import kernels

ROOT = Path(__file__).resolve().parents[2]
CHECKS = "tests/unit/sklearn/test_estimators.py"

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(kernels() is None, reason="NumPy computes with another library than OpenBLAS"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86-64"),
]


@pytest.mark.parametrize("name", ["Nehalem", "Sandybridge"])
def test_scikit_learns_checks_pass_with_other_kernels(name: str) -> None:
    environ = {**os.environ, "OPENBLAS_CORETYPE": name, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", CHECKS]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
