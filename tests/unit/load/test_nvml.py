"""The GPUs' utilisation: without a driver as it is on this machine, and with a library that plays what drivers do."""

from __future__ import annotations

import asyncio
import logging
import threading
from importlib import import_module
from types import SimpleNamespace

import pytest

from dtesn_sidecar.load import NoData, ServerLoadTracker
from dtesn_sidecar.load.nvml import nvml_load


class Driver:
    """Plays `pynvml` over a machine whose GPUs are in `gpus`: percent, or the error of that one."""

    class NVMLError(Exception):
        """As the library's."""

    def __init__(self, *gpus: int | str, broken: str | None = None) -> None:
        self.gpus, self.broken, self.begun = gpus, broken, 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError(self.broken)
        self.begun += 1

    def nvmlShutdown(self) -> None:
        self.begun -= 1
        if self.broken:
            raise self.NVMLError(self.broken)

    def nvmlDeviceGetCount(self) -> int:
        if self.broken:
            raise self.NVMLError(self.broken)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        gpu = self.gpus[handle]
        if isinstance(gpu, str):
            raise self.NVMLError(gpu)
        return SimpleNamespace(gpu=gpu, memory=99)


def has_driver() -> bool:
    pynvml = import_module("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
async def test_without_a_driver_there_is_no_data_its_reason_and_not_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    provider = nvml_load()
    with caplog.at_level(logging.DEBUG):
        assert [provider() for _ in range(3)] == [NoData("no NVIDIA driver: NVML Shared Library Not Found")] * 3
    assert caplog.records == []


@pytest.mark.skipif(not has_driver(), reason="this machine has no NVIDIA driver")
def test_with_a_driver_the_load_is_a_ratio() -> None:
    assert 0 <= nvml_load()() <= 1


def test_without_the_library_the_extra_is_named() -> None:
    def missing() -> object:
        raise ModuleNotFoundError("No module named 'pynvml'")

    assert nvml_load(missing)() == NoData("nvidia-ml-py is not installed (extra nvml)")


def test_making_the_provider_imports_nothing() -> None:
    nvml_load(lambda: pytest.fail("imported before the first poll"))


@pytest.mark.parametrize(("gpus", "load"), [((0,), 0.0), ((100,), 1.0), ((50, 100), 0.75), ((30, "Not Supported"), 0.3)])
def test_the_load_is_the_mean_of_the_gpus_that_tell(gpus: tuple[int | str, ...], load: float) -> None:
    assert nvml_load(lambda: Driver(*gpus))() == pytest.approx(load)


def test_where_no_gpu_tells_the_reason_is_that_of_the_first() -> None:
    assert nvml_load(lambda: Driver("Not Supported", "GPU is lost"))() == NoData("NVML: GPU 0: Not Supported")
    assert nvml_load(lambda: Driver())() == NoData("NVML: no GPU")


def test_a_driver_that_goes_is_let_go_and_found_again_and_the_library_begun_once() -> None:
    driver = Driver(40, broken="Driver Not Loaded")
    provider = nvml_load(lambda: driver)
    assert provider() == NoData("no NVIDIA driver: Driver Not Loaded")
    driver.broken = None
    assert [provider(), provider()] == [0.4, 0.4]
    assert driver.begun == 1
    driver.broken = "GPU is lost"
    assert provider() == NoData("NVML: GPU is lost")
    assert driver.begun == 0
    driver.broken = None
    assert provider() == 0.4
    assert driver.begun == 1


@pytest.mark.looptime(False)
async def test_it_is_polled_in_a_thread_since_nvml_may_block() -> None:
    threads: set[threading.Thread] = set()
    polled = asyncio.Event()
    loop = asyncio.get_running_loop()

    def library() -> Driver:
        threads.add(threading.current_thread())
        loop.call_soon_threadsafe(polled.set)
        return Driver(40)

    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(nvml_load(library), name="nvml")
        await polled.wait()
    assert threading.main_thread() not in threads
