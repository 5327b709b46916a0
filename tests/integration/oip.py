"""Servers for the tests of the Open Inference Protocol: with gRPC, and with a readout; and what both transports are asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
from tests.integration.http_server import LONG, Server, running

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.readout.store import save_readout
from dtesn_sidecar.model.readout.value import OutputLayer, Readout

TEXTS = ["hello", "reservoir", "äöü", "x" * 300]
SERIES = np.sin(np.arange(3 * 20 * 2, dtype=np.float32)).reshape(3, 20, 2)
MICROSECONDS = LONG * 1_000_000


@contextmanager
def running_rpc(environ: Mapping[str, str] | None = None, *arguments: str, clean: bool = True) -> Iterator[tuple[Server, str]]:
    """A server with gRPC on a free port, and the address of that."""
    with running(environ, "--grpc-port", "0", *arguments, ready=False, clean=clean) as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline()
        match = re.fullmatch(r"listening on grpc://(127\.0\.0\.1:\d+)\n", line)
        assert match, (line, server.log())
        server.wait_until_ready()
        yield server, match[1]


def features_of(server: Server, data: object) -> np.ndarray:
    """The features of one input by the product's own endpoint, float32 [depth, 2, esn_size]."""
    body = {"input_data": data, "output": "features", "timeout": LONG}
    answer = requests.post(f"{server.url}/dtesn/process_with_batching", json=body, timeout=LONG).json()
    output = answer["result"]["processed_output"]
    return np.array(output["features"], dtype=np.float32).reshape(output["shape"])


def expected(server: Server, rows: list) -> np.ndarray:
    """The features of every row."""
    return np.stack([features_of(server, row) for row in rows])


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal to what an answer may differ by, alone or in any batch."""
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


def write_readout(folder: Path, labels: tuple[str, ...] | None) -> dict[str, str]:
    """A readout for the small model in a file, and the environment that serves it."""
    rng = np.random.default_rng(3)
    layer = OutputLayer(2, 64, rng.normal(size=(3, 256)), rng.normal(size=3))
    save_readout(Readout(ModelConfiguration(membrane_depth=2, esn_size=64), layer, labels), folder / "readout.safetensors")
    return {"DTESN_MODEL_READOUT_PATH": str(folder / "readout.safetensors")}
