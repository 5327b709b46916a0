"""The port of gRPC: what stops a start, and that nothing of gRPC is there without it. Calls are in test_oip_grpc."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from tests.integration.http_server import LONG, running

pytestmark = pytest.mark.timeout(300)


def start(*arguments: str, command: tuple[str, ...] = (sys.executable, "-m", "dtesn_sidecar")) -> tuple[int, str]:
    """The exit status and the log of a server that cannot start."""
    with running(None, *arguments, ready=False, clean=False, command=command) as server:
        return server.end(), server.log()


def test_a_port_that_is_taken_stops_the_start_with_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, log = start("--grpc-port", str(port))
    assert status == 1
    assert f"gRPC cannot listen on 127.0.0.1:{port}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("port", ["-1", "65536", "any", "١"])
def test_what_is_no_port_is_refused(port: str) -> None:
    """gRPC itself would take 65537 for 1."""
    command = [sys.executable, "-m", "dtesn_sidecar", "serve", f"--grpc-port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 2
    assert "no port from 0 to 65535" in done.stderr


def test_without_the_extra_the_start_names_it() -> None:
    script = "import sys; sys.modules['grpc'] = None; from dtesn_sidecar.__main__ import main; sys.exit(main())"
    status, log = start("--grpc-port", "0", command=(sys.executable, "-c", script))
    assert status == 1
    assert "pip install 'dtesn-batcher[grpc]'" in log
    assert "Traceback" not in log


def test_without_the_flag_nothing_of_grpc_is_loaded() -> None:
    with running() as server:
        assert requests.get(f"{server.url}/v2", timeout=LONG).status_code == 200
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "cygrpc" not in mapped
        assert "google/_upb" not in mapped
