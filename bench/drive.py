"""The benchmark's two other processes: the sidecar under test, as anyone starts it, and the load generator."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.plans import Outcome, Plan
from bench.results import ROOT


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Sidecar:
    """A running `dtesn-sidecar serve`, its configuration file and what it says of itself."""

    process: subprocess.Popen[bytes]
    port: int
    file: Path
    log: IO[bytes]
    spec: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, str]:
        """Status and body of a GET."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        """Body of a GET that must succeed."""
        status, body = self.get(path)
        if status != 200:
            raise RuntimeError(f"GET {path} answered {status}: {body[:500]}")
        return json.loads(body)

    def status_of_post(self, path: str, body: object, timeout: float = 60.0) -> int:
        """Status of a POST of JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def counters(self) -> dict[str, float]:
        """Every sample of /metrics without labels, and the sum of those with."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if not sample.name.endswith("_bucket"):
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    async def reconfigure(self, **batching: Any) -> None:
        """Rewrite `batching` in the file, as a ConfigMap would be, and wait until it is in force."""
        self.spec["batching"] = {**self.spec.get("batching", {}), **batching}
        written = write(self.file, self.spec)
        deadline = time.monotonic() + 20
        while (await asyncio.to_thread(self.json, "/config"))["config_hash"] != written:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the sidecar has not taken its new configuration: {self.json('/config')}")
            await asyncio.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """The main process and all below it."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """The compute workers."""
        return [
            child
            for child in self.processes()[1:]
            if "dtesn_sidecar.compute.worker" in child.cmdline() or "bench.faulty" in child.cmdline()
        ]

    def resident_bytes(self) -> int:
        """Memory of all processes together; pages that several share are counted once (PSS) where the kernel says so."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total

    def terminate(self) -> None:
        """What Kubernetes does first."""
        self.process.send_signal(signal.SIGTERM)

    async def exited(self, within: float) -> int | None:
        """Exit code, or None if it is still there after `within` seconds."""
        try:
            return await asyncio.to_thread(self.process.wait, within)
        except subprocess.TimeoutExpired:
            return None

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(Path(self.log.name).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def write(file: Path, spec: Mapping[str, Any]) -> str:
    """Replace the configuration file at once; its hash. JSON is YAML."""
    content = json.dumps(spec, indent=1).encode()
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.rename(file)
    return hashlib.sha256(content).hexdigest()


@asynccontextmanager
async def sidecar(
    spec: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None, command: tuple[str, ...] | None = None
) -> AsyncIterator[Sidecar]:
    """Start one on the NumPy backend and wait until it is ready; end it afterwards, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="dtesn-bench-") as folder:
        file = Path(folder) / "batcher.yaml"
        whole: dict[str, Any] = {"backend": "numpy", **(spec or {})}
        write(file, whole)
        port = free_port()
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is measured
                [
                    *(command or (sys.executable, "-m", "dtesn_sidecar")),
                    "serve",
                    "--config",
                    str(file),
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
                cwd=ROOT,
            )
            handle = Sidecar(process, port, file, log, whole)
            try:
                await _ready(handle)
                yield handle
            finally:
                _end(handle)


async def _ready(handle: Sidecar) -> None:
    deadline = time.monotonic() + 60
    while True:
        if handle.process.poll() is not None:
            raise RuntimeError(f"the sidecar ended with {handle.process.returncode}:\n{handle.tail()}")
        try:
            status, _ = await asyncio.to_thread(handle.get, "/readyz")
        except OSError:
            status = 0
        if status == 200:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the sidecar is not ready after a minute:\n{handle.tail()}")
        await asyncio.sleep(0.05)


def _end(handle: Sidecar) -> None:
    if handle.process.poll() is not None:
        return
    below = handle.processes()
    for process in below:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    handle.process.wait()


class Load:
    """The load generator's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, plan: Plan) -> Outcome:
        """Carry a plan out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(plan) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended; its message is above")
        return msgspec.json.decode(line, type=Outcome)


@asynccontextmanager
async def load_generator() -> AsyncIterator[Load]:
    """Start it; end it afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.loadgen", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 28, cwd=ROOT
    )
    try:
        yield Load(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
