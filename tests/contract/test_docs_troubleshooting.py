"""docs/troubleshooting.md: its commands run, its output has the form that it shows, and every metric and field in it exists."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest
from tests.integration.http_server import Server, running

from dtesn_api import names
from dtesn_api.schema import to_wire
from dtesn_api.spec import DTESNBatcherSpec

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
BLOCKS = [(kind, body) for kind, body in re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)]
ANCHORS = ["low-improvement", "high-latency", "breaker-opens", "no-load-data", "refusals", "worker-restarts", "config-reload"]
METRICS = {value for name, value in vars(names).items() if name.startswith("METRIC_")}

# Not there before it was measured; that its name is right is another test.
ONCE_MEASURED = {
    names.METRIC_IMPROVEMENT,
    names.METRIC_BASELINE_SAMPLES,
    names.METRIC_BATCH_FILL,
    names.METRIC_BATCH_SIZE_TARGET,
    names.METRIC_LOAD,
    names.METRIC_LOAD_AGE,
    names.METRIC_LOAD_COMBINED,
    names.METRIC_COMPUTE_MEMORY,
}

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs the Debian package curl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the configuration file is."""
    return tmp_path_factory.mktemp("troubleshooting")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    file = folder / "batcher.yaml"
    file.write_text(BLOCKS[0][1])
    assert BLOCKS[0][0] == "yaml"
    with running(None, "--config", str(file), clean=False) as started:
        yield started


def take(file: Path, text: str, server: Server) -> None:
    """Swap the file, and wait until the server has taken it or said why not."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)
    wanted = hashlib.sha256(text.encode()).hexdigest()
    while True:
        with urllib.request.urlopen(f"{server.url}/config") as answer:
            config = json.load(answer)
        if config["config_hash"] == wanted or config["reload_errors"]:
            return
        time.sleep(0.05)


def run(command: str, folder: Path, server: Server) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    where = command.replace("localhost:8080", f"127.0.0.1:{server.port}")
    done = subprocess.run(["bash", "-c", where], capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path}, check=False)
    assert done.stderr == "", (command, done.stderr)
    return done.stdout


def form(output: str) -> set[str]:
    """What an output consists of, without its values: metrics with their labels, names in JSON, entries of a header, sentences."""
    found: set[str] = set()
    for line in output.splitlines():
        if metric := re.match(r"(dtesn_\w+(?:\{[^}]*\})?) \S+$", line):
            found.add(re.sub(r'hash="\w+"', 'hash=""', metric[1]))
        elif line.lower().startswith("server-timing"):
            found.update(re.findall(r"(\w+);", line))
        elif '"message"' in line or line.startswith(("dtesn-sidecar:", "  spec.")):
            found.add(line.strip().rstrip(","))
        else:
            found.update(re.findall(r'"(\w+)":', line))
    return found


def steps() -> list[tuple[str, str, str]]:
    """(kind, command or file, output shown) in the document's order."""
    found = []
    for kind, body in BLOCKS[1:]:
        if kind == "yaml":
            found.append(("yaml", body, ""))
        else:
            assert kind == "console"
            assert body.startswith("$ ")
            for part in body.removeprefix("$ ").split("\n$ "):
                command, _, output = part.partition("\n")
                found.append(("console", command, output))
    return found


@needs_curl
def test_every_command_runs_and_its_output_has_the_form_that_is_shown(server: Server, folder: Path) -> None:
    for kind, text, shown in steps():
        if kind == "yaml":
            take(folder / "batcher.yaml", text, server)
            continue
        # The one request that is refused there, by a server under load, has a time-out here that is too short for an idle one too.
        output = run(text.replace('"timeout": 0.001', '"timeout": 1e-6'), folder, server)
        wanted = form(shown)
        assert wanted, text
        missing = {one for one in wanted - form(output) if one.partition("{")[0] not in ONCE_MEASURED}
        if "reason" in wanted:  # why a source has no data differs from machine to machine
            missing -= {"age_seconds", "reason"}
        assert not missing, (text, output)


def test_every_anchor_that_alerts_link_to_is_there_once() -> None:
    assert re.findall(r'<a id="([\w-]+)"></a>\n## ', TEXT) == ANCHORS
    linked = set(re.findall(r"\]\(#([\w-]+)\)", TEXT))
    assert linked == set(ANCHORS)
    rules = (ROOT / "examples" / "monitoring" / "rules.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"troubleshooting\.md#([\w-]+)", rules)) <= set(ANCHORS)


def test_every_metric_named_exists() -> None:
    found = set(re.findall(r"\bdtesn_[a-z_]+[a-z]\b", TEXT)) - {"dtesn_sidecar", "dtesn_batcher"}
    found -= {"dtesn_load", "dtesn_config", "dtesn_breaker", "dtesn_batch"}  # beginnings, in commands
    plain = {re.sub(r"_(sum|count|bucket)$", "", name) if name not in METRICS else name for name in found}
    assert len(plain) > 20
    assert plain <= METRICS


def spec_fields() -> set[str]:
    """Every field of the spec as the document writes it: `batching.maxBatchSize`, `load.prometheus[].url`."""
    found: set[str] = set()

    def walk(kind: object, path: str) -> None:
        for part in get_args(kind):
            walk(part, path)
            if get_origin(kind) is tuple:
                walk(part, f"{path}[]")
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for field in msgspec.structs.fields(kind):
                name = f"{path}.{field.encode_name}" if path else field.encode_name
                found.add(name)
                walk(field.type, name)

    walk(DTESNBatcherSpec, "")
    return found


def test_every_field_named_exists() -> None:
    known = spec_fields()
    assert {"batching.maxBatchSize", "load.prometheus[].url", "dynamicBatching"} <= known
    assert "batching" in to_wire(DTESNBatcherSpec())
    named = set(re.findall(r"`((?:batching|load|model|sidecar)\.[\w.\[\]]+)`", TEXT))
    assert len(named) > 25
    assert {name for name in named if name not in known} == set()
