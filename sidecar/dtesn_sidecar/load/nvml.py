"""The `nvml` provider: how busy the GPUs of this container are, by NVIDIA's management library.

Utilisation is the share of the last sample period (1/6 to 1 s) in which any kernel ran, of this server's own workers too: NVML in a
container cannot tell whose. So it is for GPUs that others use as well, or a server on the CPU beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from dtesn_sidecar.load.readings import LoadProvider, NoData


def nvml_load(library: Callable[[], Any] = lambda: import_module("pynvml")) -> LoadProvider:
    """The provider: the mean over the GPUs that can be read, since batches are spread over all of them.

    A plain function, polled in a thread: NVML may block. `library` answers the module `pynvml`; it is asked at the first poll,
    and the driver at every poll until there is one.
    """
    ready: Any = None

    def nvml() -> float | NoData:
        nonlocal ready
        try:
            pynvml = library()
        except ImportError:
            return NoData("nvidia-ml-py is not installed (extra nvml)")
        if ready is None:
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                return NoData(f"no NVIDIA driver: {error}")
            ready = pynvml
        try:
            values, failures = _utilisations(pynvml)
        except pynvml.NVMLError as error:
            _end(ready)
            ready = None
            return NoData(f"NVML: {error}")
        if not values:
            _end(ready)
            ready = None
            return NoData(failures[0] if failures else "NVML: no GPU")
        return sum(values) / len(values) / 100.0

    return nvml


def _utilisations(pynvml: Any) -> tuple[list[int], list[str]]:
    """Percent of each GPU that tells, and why the others do not (one in MIG mode has none, one may have been lost)."""
    values, failures = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            values.append(pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(index)).gpu)
        except pynvml.NVMLError as error:
            failures.append(f"NVML: GPU {index}: {error}")
    return values, failures


def _end(pynvml: Any) -> None:
    """Let go of a library that fails, so that the next poll begins anew with whatever driver there is then."""
    if pynvml is not None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:  # it has gone with the driver
            return
