"""What a start takes in before the first request: libraries, and memory. Times are `bench/startup.py`'s."""

from __future__ import annotations

import re
import subprocess
import sys

import psutil
from tests.integration.http_server import running

# What only some commands, extras or requests need, or nothing at all.
ARRAYS = {
    "IPython",
    "array_api_compat",
    "chemicals",
    "cupy",
    "matplotlib",
    "pandas",
    "pynvml",
    "reservoirpy",
    "safetensors",
    "scipy",
    "sklearn",
    "sktime",
}
SERVICES = {
    "cryptography",
    "fastapi",
    "grpc",
    "httpx",
    "kopf",
    "kubernetes",
    "opentelemetry",
    "playwright",
    "psutil",
    "pydantic",
    "requests",
    "rich",
    "starlette",
    "tritonclient",
    "uvicorn",
}
HEAVY = ARRAYS | SERVICES | {"dtesn_sidecar.client", "dtesn_sidecar.sklearn"}
IN_WORKERS = HEAVY | {"aiohttp", "asyncio", "orjson", "prometheus_client", "ssl", "uvloop", "yaml"}
IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +([\w.]+)$", re.MULTILINE)
MOST_MB = 120  # resident, in any process before the first request


def loaded(text: str, wanted: set[str]) -> set[str]:
    """Which of these modules, or packages with a module of theirs, a Python said that it imported."""
    names = IMPORTED.findall(text)
    assert len(names) > 50
    return {module for module in wanted if any(name == module or name.startswith(f"{module}.") for name in names)}


def test_a_server_without_a_request_loads_nothing_that_it_does_not_need_and_weighs_little() -> None:
    # Every Python of the start, the children too, writes what it imports to standard error.
    with running({"PYTHONPROFILEIMPORTTIME": "1", "DTESN_BACKEND": "numpy"}, clean=False) as server:
        main = psutil.Process(server.process.pid)
        processes = [main, *main.children(recursive=True)]
        assert len(processes) >= 3  # main, a worker, the builder of weights
        for process in processes:
            assert process.memory_info().rss < MOST_MB * 1e6, process.cmdline()
        text = server.log()
    assert {"aiohttp", "numpy", "uvloop"} <= loaded(text, {"aiohttp", "numpy", "uvloop"})  # or nothing was seen
    assert loaded(text, HEAVY) == set()


def test_a_worker_loads_numpy_and_little_else() -> None:
    program = "import dtesn_sidecar.compute.worker, dtesn_sidecar.compute.drive, dtesn_sidecar.compute.building"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True)
    assert loaded(done.stderr, {"numpy"}) == {"numpy"}
    assert loaded(done.stderr, IN_WORKERS) == set()


def test_the_command_itself_loads_nothing_before_it_knows_what_to_do() -> None:
    program = "from dtesn_sidecar.__main__ import main; main(['--version'])"
    arguments = [sys.executable, "-X", "importtime", "-c", f"try:\n    {program}\nexcept SystemExit:\n    pass"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dtesn-sidecar ")
    assert loaded(done.stderr, HEAVY | {"aiohttp", "asyncio", "msgspec", "numpy", "yaml"}) == set()
