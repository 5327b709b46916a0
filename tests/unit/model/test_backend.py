from __future__ import annotations

import subprocess
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model import devices
from tests.unit.model.models import Features, compute, make, trees

from dtesn_sidecar.model.backend import Backend, BackendUnavailable, NumPyBackend, select_backend, select_backends
from dtesn_sidecar.model.on_arrays import ArrayBackend
from dtesn_sidecar.model.reservoir import RunItem
from dtesn_sidecar.model.trees import Tree


class Counting(ArrayBackend):
    """Counts explicit transfers; an implicit one raises."""

    def __init__(self) -> None:
        self.uploads = self.downloads = 0
        super().__init__(array_api_strict, devices.DEVICE, name="array-api-strict", description="device1", to_host=self._fetch)

    def _fetch(self, array: Any) -> Any:
        self.downloads += 1
        return devices.fetch(array)

    def _place(self, array: Any) -> Any:
        self.uploads += 1
        return super()._place(array)


def agree(backend: Backend, items: list[tuple[Tree, int]], **fields: Any) -> None:
    for one, other in zip(compute(make(**fields), items), compute(make(backend=backend, **fields), items), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@given(
    items=st.lists(st.tuples(trees(), st.integers(1, 3)), min_size=1, max_size=5),
    order=st.sampled_from([1, 4]),
    topology=st.sampled_from(["orthogonal", "sparse", "ring"]),
    size=st.sampled_from([36, 64]),
    backend=st.sampled_from([devices.any_library, devices.cupy]),
)
@settings(max_examples=60)
def test_numpy_and_arrays_on_a_device_agree_to_1e_5_without_an_implicit_transfer(
    items: list[tuple[Tree, int]], order: int, topology: str, size: int, backend: Callable[[devices.Launches], Backend]
) -> None:
    agree(backend(devices.Launches()), items, order=order, topology=topology, size=size, spectral_radius=0.5)


def test_an_admission_is_one_upload_of_each_kind_and_finished_items_one_download() -> None:
    backend = Counting()
    reservoir = make(backend=backend)
    rng = np.random.default_rng(0)
    batch = [(Tree("byte", rng.integers(0, 256, length, dtype=np.uint8)), 1 + length % 3) for length in (3, 3, 3)]
    backend.uploads = 0
    compute(reservoir, [(tree, 3) for tree, _ in batch])
    assert (backend.uploads, backend.downloads) == (2, 1)


def test_items_admitted_later_agree_too() -> None:
    found: list[dict[int, Features]] = []
    rng = np.random.default_rng(0)
    parents = np.array([-1] + [int(rng.integers(0, i)) for i in range(1, 30)])
    batch = [Tree("byte", rng.integers(0, 256, 20, dtype=np.uint8)), Tree.of_parents("vector", rng.standard_normal((30, 2)), parents)]
    for backend in (NumPyBackend(), Counting()):
        run = make(backend=backend, spectral_radius=0.3).start()
        results: dict[int, Features] = {}
        for i in range(4):
            run.admit([RunItem(i, batch[i % 2], 1 + i % 3)])
            run.drop([1])
            results |= {result.id: result.features for result in run.advance(0.0)}  # type: ignore[misc]
        while run.active:
            results |= {result.id: result.features for result in run.advance(0.0)}  # type: ignore[misc]
        found.append(results)
    assert found[0].keys() == found[1].keys() == {0, 2, 3}
    for i, features in found[0].items():
        np.testing.assert_allclose(features, found[1][i], rtol=0, atol=1e-5)


def test_the_numpy_path_imports_no_array_library_but_numpy() -> None:
    script = (
        "import sys; from dtesn_sidecar.model.backend import select_backend; import dtesn_sidecar.model.reservoir;"
        "import dtesn_sidecar.model.inputs;"
        "assert select_backend('numpy').name == 'numpy';"
        "found = {'array_api_compat', 'cupy', 'scipy', 'rich', 'aiohttp'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class NoDriverError(Exception):
    pass


def fake_cupy(devices: int | None) -> Any:
    cupy: Any = types.ModuleType("cupy")

    def count() -> int:
        if devices is None:
            raise NoDriverError("driver not loaded")
        return devices

    runtime = types.SimpleNamespace(
        getDeviceCount=count, CUDARuntimeError=NoDriverError, getDeviceProperties=lambda _: {"name": b"Some GPU"}
    )
    cupy.used = []

    def device(index: int) -> Any:
        return types.SimpleNamespace(id=index, use=lambda: cupy.used.append((threading.get_ident(), index)))

    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=device)
    cupy.asnumpy, cupy.dot, cupy.ElementwiseKernel = np.asarray, np.dot, lambda *text: text
    return cupy


@pytest.mark.parametrize("devices", [None, 0, 1])
def test_cupy_is_taken_where_a_device_is_present_and_never_silently_replaced(
    devices: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(devices))
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", types.ModuleType("array_api_compat.cupy"))
    if devices:
        for name in ("cupy", "auto"):
            assert (select_backend(name).name, select_backend(name).device) == ("cupy", "Some GPU")
    else:
        assert caplog.records == []
        assert select_backend("auto").name == "numpy"
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "no CUDA device" in record.getMessage()
        with pytest.raises(BackendUnavailable, match="no CUDA device"):
            select_backend("cupy")


def test_every_device_has_a_backend_of_its_own_which_a_thread_makes_its_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake_cupy(3)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", types.ModuleType("array_api_compat.cupy"))
    backends = select_backends("auto")
    assert [backend.device for backend in backends] == ["Some GPU"] * 3
    assert cupy.used == [], "the device of this thread is nobody's business but its own"
    for backend in backends:
        backend.use()
    assert cupy.used == [(threading.get_ident(), index) for index in range(3)]
    assert [backend.name for backend in select_backends("numpy")] == ["numpy"]


def test_cupy_that_is_not_installed_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match=r"install dtesn-batcher\[gpu\]"):
        select_backend("cupy")
    assert (select_backend("auto").name, select_backend("auto").device) == ("numpy", "cpu")
    assert caplog.records == []  # nobody expected it
    with pytest.raises(BackendUnavailable, match="one of auto, numpy, cupy"):
        select_backend("cuda")  # type: ignore[arg-type]


def cuda_is_available() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_is_available(), reason="no CUDA device")
@pytest.mark.parametrize("topology", ["orthogonal", "sparse", "ring"])
def test_numpy_and_cupy_agree_to_1e_5(topology: str) -> None:
    rng = np.random.default_rng(0)
    batch: list[tuple[Tree, int]] = []
    for i in range(12):
        nodes = int(rng.integers(1, 80))
        parents = np.array([-1] + [int(rng.integers(0, j)) for j in range(1, nodes)]) if i % 2 else np.arange(-1, nodes - 1)
        batch.append((Tree.of_parents("byte", rng.integers(0, 256, nodes, dtype=np.uint8), parents), 1 + i % 3))
    backend = select_backend("cupy")
    agree(backend, batch, size=64, topology=topology, spectral_radius=0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mixed_texts_at_the_default_size_agree_on_cupy(dtype: str) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 2, 3, 17, 40, 64, 64, 65, 150, 300, *rng.integers(1, 100, 40).tolist()]
    batch = [(Tree("byte", rng.integers(0, 256, length, dtype=np.uint8)), 1 + length % 4) for length in lengths]
    agree(select_backend("cupy"), batch, size=512, depth=4, dtype=dtype)


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 512), (2, 512), (3, 520), (7, 512), (31, 512), (48, 512), (90, 512), (11, 1000), (3, 1032), (5, 1032)]
)
def test_a_product_in_strips_is_the_product(rows: int, size: int) -> None:
    rng = np.random.default_rng(rows)
    x, matrix = rng.standard_normal((rows, size)), rng.standard_normal((size, size))
    out = np.full((rows + 1, size), 7.0)
    NumPyBackend().product(x, matrix, out[:rows])
    np.testing.assert_allclose(out[:rows], x @ matrix, rtol=0, atol=1e-11)
    assert (out[rows] == 7.0).all()
