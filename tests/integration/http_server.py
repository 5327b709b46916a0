"""A real server process with real workers, for the tests of HTTP: started on a free port, its log kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SMALL = {
    "DTESN_MODEL_ESN_SIZE": "64",
    "DTESN_MODEL_MEMBRANE_DEPTH": "2",
    "DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "0",
    # What names no timeout has 200 s or more: an answer does not depend on how fast this machine is.
    "DTESN_BATCHING_MIN_TIMEOUT_SECONDS": "200",
}
LONG = 250
"""Seconds for what must happen, however slow the machine: less than the time that a test has, and the server's max_timeout."""


class Server:
    """One running server: where it listens, and what it said."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path) -> None:
        self.process, self.folder, self._log = process, folder, log
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"listening on (http://127\.0\.0\.1:(\d+))\n", line)
        assert match, (line, log.read_text())
        self.url, self.port = match[1], int(match[2])

    def wait_until_ready(self) -> None:
        """The line `ready` on standard output; an assertion where the server ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready"), (line, self.log())

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self, timeout: float = LONG) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(timeout)

    def log(self) -> str:
        """Everything on standard error so far."""
        return self._log.read_text()

    def drain(self, *arguments: str) -> int:
        """The exit status of `dtesn-sidecar drain`."""
        command = [sys.executable, "-m", "dtesn_sidecar", "drain", *arguments]
        return subprocess.run(command, env={**os.environ, "XDG_RUNTIME_DIR": str(self.folder)}, timeout=LONG, check=False).returncode

    def records(self, message: str = "request") -> list[dict[str, object]]:
        """The records of the JSON log with that message. Complete once the server has ended."""
        return [record for line in self.log().splitlines() if (record := json.loads(line))["message"] == message]


@contextmanager
def running(
    environ: Mapping[str, str] | None = None,
    *arguments: str,
    ready: bool = True,
    clean: bool = True,
    command: tuple[str, ...] | None = None,
) -> Iterator[Server]:
    """A server for the `with` block; afterwards it is terminated and, if `clean`, must have exited 0 without an error in its log."""
    with tempfile.TemporaryDirectory(prefix="dtesn-test-") as name:
        folder = Path(name)
        log = folder / "stderr"
        whole = {key: value for key, value in os.environ.items() if not key.startswith("DTESN_")}
        whole |= {"XDG_RUNTIME_DIR": str(folder), "OPENBLAS_NUM_THREADS": "1", **SMALL, **(environ or {})}
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                [*(command or (sys.executable, "-m", "dtesn_sidecar")), "serve", "--host", "127.0.0.1", "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=whole,
            ) as process,
        ):
            try:
                server = Server(process, folder, log)
                if ready:
                    server.wait_until_ready()
                yield server
                if process.poll() is None:
                    server.terminate(signal.SIGINT)
                status = server.end()
                if clean:
                    assert status == 0, log.read_text()
                    assert '"level":"error"' not in log.read_text(), log.read_text()
                    assert "Traceback" not in log.read_text(), log.read_text()
            finally:
                if process.poll() is None:
                    process.kill()
