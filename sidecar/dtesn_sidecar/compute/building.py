"""Drawing and saving weights: the function that the builder process runs. Who asks for what, and when, is in `store`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.compute.messages import encode
from dtesn_sidecar.model.weights import build_layer, save_layer

if TYPE_CHECKING:
    from dtesn_sidecar.compute.helper import Helper  # the parent's half, which the builder need not load

PATIENCE = 300.0  # seconds for one layer: QR of the largest takes 6 on an idle core


def build(arguments: tuple[bytes, int, int, str], _buffers: list[memoryview]) -> tuple[float, list[Bytes]]:
    """Draw one layer and save it; the seconds it took."""
    model, esn_size, layer, folder = arguments
    began = time.perf_counter()
    save_layer(Path(folder), layer, build_layer(msgspec.msgpack.decode(model, type=ModelConfiguration), esn_size, layer))
    return time.perf_counter() - began, []


async def build_in(helper: Helper, model: ModelConfiguration, esn_size: int, layer: int, folder: Path) -> float:
    """`build` in the helper process. Raises OutOfMemory, WorkerLost, or what building raised."""
    seconds, _ = await helper.call(build, (encode(model), esn_size, layer, str(folder)), patience=PATIENCE)
    return float(seconds)
