"""A real sidecar started with the very command, arguments, variables and file of a rendered pod serves what the resource says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from tests.cluster.processes import free_port
from tests.integration.http_server import LONG

from dtesn_api import names
from dtesn_api.spec import decode_spec
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import Cluster, Desired, desired
from dtesn_operator.kinds import CONFIG_MAP, DEPLOYMENT, Manifest, key_of

MODEL = {"name": "prices", "esnSize": 64, "membraneDepth": 3, "seed": 7, "leakRate": 0.45, "topology": "ring", "maxNodes": 1000}
SPEC: dict[str, Any] = {
    "model": MODEL,
    "backend": "numpy",
    "batching": {"targetBatchSize": 12, "strategy": "just_in_time"},
    "load": {"system": {"weight": 0}},
    "sidecar": {"drainDelaySeconds": 0, "maxBodyBytes": 4096, "logging": {"level": "warning", "format": "text"}},
}


def rendered(change: dict[str, Any] | None = None) -> tuple[Desired, Manifest, bytes]:
    """Everything, the sidecar's container, and the file in its ConfigMap."""
    spec = decode_spec(SPEC | {"sidecar": {**SPEC["sidecar"], "port": free_port()}} | (change or {}))
    result = desired(Batcher("shop", "demo", uid="u", spec=spec), Cluster(operator_image="a:1"))
    by_kind = {key_of(one).kind: one for one in result.objects}
    (container,) = by_kind[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    return result, container, by_kind[CONFIG_MAP]["data"][names.CONFIG_FILE].encode()


@contextmanager
def started(container: Manifest, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The container's process. Only what the image would bring is replaced: where the program and its configuration lie."""
    program = shutil.which("dtesn-sidecar", path=str(Path(sys.executable).parent))
    assert program is not None
    command = [*container["command"], *container["args"]]
    assert command[0] == "dtesn-sidecar"
    placed = [part.replace(names.CONFIG_FOLDER, str(folder)) for part in command[1:]]
    environ = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    environ |= {variable["name"]: variable["value"] for variable in container["env"]}
    process = subprocess.Popen([program, *placed], env=environ)
    try:
        yield process
        process.terminate()
        assert process.wait(LONG) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def ready(http: aiohttp.ClientSession, container: Manifest) -> None:
    """Wait until the readiness probe of the container passes."""
    probe = container["readinessProbe"]["httpGet"]
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            async with http.get(f"http://127.0.0.1:{probe['port']}{probe['path']}") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            continue
    raise AssertionError("not ready")


async def test_the_pod_serves_the_model_and_the_settings_that_the_resource_says(tmp_path: Path) -> None:
    result, container, live = rendered()
    (tmp_path / names.CONFIG_FILE).write_bytes(live)
    port = container["ports"][0]["containerPort"]
    with started(container, tmp_path):
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await ready(http, container)
            async with http.get(container["livenessProbe"]["httpGet"]["path"]) as answer:
                assert answer.status == 200
            async with http.get("/config") as answer:
                config = await answer.json()
            body = {"input_data": "hello", "output": "summary"}
            async with http.post("/dtesn/process_with_batching", json=body) as answer:
                output = (await answer.json())["result"]["processed_output"]
            async with http.post("/dtesn/process_with_batching", json={"input_data": "a" * 5000}) as answer:
                assert answer.status == 413
    assert config["config_hash"] == result.config_hash
    spec = config["spec"]
    assert MODEL.items() <= spec["model"].items()
    assert (spec["backend"], spec["batching"]["targetBatchSize"], spec["batching"]["strategy"]) == ("numpy", 12, "just_in_time")
    assert spec["load"]["system"]["weight"] == 0
    assert spec["sidecar"]["logging"] == {"level": "warning", "format": "text"}
    assert output["model"] == {"name": "prices", "seed": 7, "membrane_depth": 3, "esn_size": 64}


async def test_what_the_operator_writes_later_is_taken_while_it_runs_and_told_by_its_hash(tmp_path: Path) -> None:
    _, container, live = rendered()
    (tmp_path / names.CONFIG_FILE).write_bytes(live)
    later, _, changed = rendered({"batching": {"targetBatchSize": 20}})
    port = container["ports"][0]["containerPort"]
    with started(container, tmp_path):
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await ready(http, container)
            (tmp_path / "new").write_bytes(changed)
            (tmp_path / "new").rename(tmp_path / names.CONFIG_FILE)
            deadline = time.monotonic() + LONG
            config: dict[str, Any] = {}
            while config.get("config_hash") != later.config_hash and time.monotonic() < deadline:
                async with http.get("/config") as answer:
                    config = await answer.json()
    assert config["config_hash"] == later.config_hash
    assert config["spec"]["batching"]["targetBatchSize"] == 20
    assert config["reload_errors"] == []
    assert config["needs_restart"] == []
