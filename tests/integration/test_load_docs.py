"""docs/load.md: what it asks one to try runs as it stands there, and says what is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.http_server import SMALL
from tests.integration.prometheus_server import needs_prometheus, wait_for

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "load.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)[0]
TRIED, PLAYED, _ = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SIZE_COMMAND = next(iter(re.findall(r"`(curl [^`]+)` shows", TEXT)))


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Shell:
    """An empty folder, where commands of the document are run with ports that are free here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(("8080", "9090", "8000"), free_ports(3), strict=True))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DTESN_")}
        self._environ = {**clean, **SMALL, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(folder)}

    def here(self, text: str) -> str:
        """The text with this machine's ports."""
        return re.sub(r"(127\.0\.0\.1:|--port )(\d+)", lambda found: f"{found[1]}{self._ports[found[2]]}", text)

    def write(self, text: str) -> None:
        """The configuration file, swapped whole."""
        fresh = self._folder / "fresh.yaml"
        fresh.write_text(self.here(text))
        fresh.rename(self._folder / "batcher.yaml")

    def run(self, command: str) -> str:
        """What it prints."""
        whole = ["bash", "-uc", self.here(command)]
        return subprocess.run(whole, cwd=self._folder, env=self._environ, capture_output=True, text=True, check=False).stdout

    @contextmanager
    def beside(self, command: str) -> Iterator[None]:
        """A program in the background, for the `with` block."""
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-uc", f"exec {self.here(command)}"], cwd=self._folder, env=self._environ, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@needs_prometheus
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the Debian package curl")
def test_what_one_is_asked_to_try_says_what_is_shown(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    scrape, _, rest = COMMANDS.partition("END\nprometheus")
    monitor, sidecar, asked, scraped = f"prometheus{rest}".strip().splitlines()
    shell.run(f"{scrape}END")
    shell.write(TRIED)
    with shell.beside(monitor.removesuffix(" &")), shell.beside(sidecar.removesuffix(" &")):

        def sources() -> dict[str, dict[str, float | str]] | None:
            said = shell.run(asked)
            found = json.loads(said).get("server_load", {}) if said.startswith("{") else {}  # while it starts it says 503
            return found if found.get("node", {}).get("value") is not None else None

        load = wait_for(sources)
        assert load["locked"] == {"value": None, "weight": 1.0, "reason": "secret monitoring, key token missing"}
        assert re.match(r"/load: no connection to 127\.0\.0\.1:\d+: Connection refused; /metrics: ", load["engine"]["reason"])
        assert load["nvml"]["value"] is not None or load["nvml"]["reason"]
        assert load["queue"]["weight"] == 1.0
        metrics = shell.run(scraped)
        for line in (r"dtesn_load_combined_ratio [\d.]+", r'dtesn_load_ratio\{provider="node"\} [\d.e-]+'):
            assert re.search(f"^{line}$", metrics, re.MULTILINE), metrics
        assert 'dtesn_load_up{provider="locked"} 0.0\n' in metrics

        for query, load_now, size in (("vector(1)", "1.0", "6.0"), ("vector(0)", "0.0", "10.0")):
            shell.write(PLAYED.replace("vector(1)", query))
            wanted = {f"dtesn_batch_size_current {size}", f"dtesn_load_combined_ratio {load_now}"}
            wait_for(lambda wanted=wanted: wanted <= set(shell.run(SIZE_COMMAND).splitlines()))
