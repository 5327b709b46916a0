"""Products of few rows: however they are cut up for the kernels of the BLAS, they are the product."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtesn_sidecar.model.backend import NumPyBackend
from dtesn_sidecar.model.blas import kernels
from dtesn_sidecar.model.tiling import cut

KERNELS = ["SkylakeX", "Haswell"]


@given(
    blas=st.sampled_from(KERNELS),
    rows=st.integers(1, 70),
    inner=st.sampled_from([1, 12, 200, 256, 512, 1024]),
    outer=st.sampled_from([32, 256, 500, 512]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 5),
)
@settings(max_examples=150)
def test_a_product_that_is_cut_up_is_the_product(blas: str, rows: int, inner: int, outer: int, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    backend = NumPyBackend(blas)
    matrix = rng.uniform(-1, 1, (inner, outer)).astype(dtype)
    for _ in range(2):  # the second time there are rows left from the first
        block = rng.uniform(-1, 1, (rows + 2, inner)).astype(dtype)
        before, out = block.copy(), np.full((rows + 2, outer), 7, dtype)
        backend.product(block[1:-1], matrix, out[1:-1])
        np.testing.assert_allclose(out[1:-1], block[1:-1] @ matrix, rtol=0, atol=1e-7 * inner if dtype is np.float32 else 1e-12 * inner)
        np.testing.assert_array_equal(block, before)
        assert (out[[0, -1]] == 7).all(), "the rows beside it are another's"


@given(st.sampled_from([*KERNELS, "Neoverse", None]), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_a_cut_computes_every_row_and_at_most_three_more(blas: str | None, rows: int, inner: int, outer: int) -> None:
    tiles = cut(rows, inner, outer, blas)
    if tiles is not None:
        assert rows <= tiles.rows <= rows + 3
        assert tiles.height in (1, tiles.rows)
        assert 1 <= tiles.width <= outer
        assert (tiles.height == 1) <= (tiles.width == outer)


def test_nothing_is_cut_up_for_a_library_that_nothing_was_measured_of() -> None:
    assert {cut(rows, 512, 512, None) for rows in range(1, 100)} == {None}


def test_threads_that_share_a_backend_do_not_share_its_scratch() -> None:
    backend, matrix = NumPyBackend("Haswell"), np.eye(512, dtype=np.float32)
    wrong: list[int] = []

    def compute(value: int) -> None:
        rows, out = np.full((7, 512), value, np.float32), np.empty((7, 512), np.float32)
        for _ in range(200):
            backend.product(rows, matrix, out)
            if not (out == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=compute, args=(value,)) for value in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(kernels() is None, reason="NumPy computes with another library than OpenBLAS")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86-64")
@pytest.mark.parametrize("name", ["Nehalem", "Haswell"])
def test_the_kernels_are_those_that_openblas_was_told_to_take(name: str) -> None:
    code = "from dtesn_sidecar.model.backend import NumPyBackend; print(NumPyBackend()._kernels)"
    told = {**os.environ, "OPENBLAS_CORETYPE": name}
    assert subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True).stdout.strip() == name
