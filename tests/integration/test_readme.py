"""What README shows is what happens."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.integration.http_server import running

from dtesn_api.spec import parse_manifest
from dtesn_sidecar import DTESNProcessor

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def printed(program: str) -> str:
    """What a block of Python prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    return output.getvalue()


def test_the_library_example_runs() -> None:
    library, _ = blocks("python")
    assert printed(library) == "[3, 7, 7]\n42\n"


def test_the_client_asks_a_server() -> None:
    _, program = blocks("python")
    with running() as server:
        here = program.replace("http://127.0.0.1:8080", server.url).replace("timeout=10.0", "timeout=100.0")
        assert here != program
        assert printed(here) == "9\n"


def test_the_load_shown_is_a_configuration() -> None:
    (block,) = blocks("yaml")
    load = parse_manifest(yaml.safe_load(block)).load
    assert [source.name for source in load.prometheus] == ["gateway"]
    assert load.engine is not None


def test_the_readout_commands_fit_and_evaluate(tmp_path: Path) -> None:
    (commands,) = blocks("sh")
    data, *_ = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "readouts.md").read_text(), re.DOTALL)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-euc", data + commands], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "120 samples, 3 labels" in done.stdout
    assert "200 samples of test.jsonl" in done.stdout


def test_every_link_leads_to_a_file() -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert {"docs/page.png", "docs/readouts.md"} <= set(targets)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_answer_shown_is_the_answer_given() -> None:
    request = json.loads(re.findall(r"-d '(\{.*?\})'", README)[0])
    shown = json.loads(blocks("json")[0])["result"]["processed_output"]

    async def ask() -> object:
        async with DTESNProcessor() as processor:
            return (await processor.process_with_dynamic_batching(**request)).processed_output

    output = asyncio.run(ask())
    assert (output.nodes, output.height, output.output) == (shown["nodes"], shown["height"], shown["output"])  # type: ignore[attr-defined]
    for layer, expected in zip(output.summary, shown["summary"], strict=True):  # type: ignore[attr-defined]
        for state in ("root", "mean"):
            got = getattr(layer, state)
            assert got.norm == pytest.approx(expected[state]["norm"], abs=5e-5)
            assert got.mean == pytest.approx(expected[state]["mean"], abs=2e-6)


def test_the_error_shown_names_field_value_and_range() -> None:
    shown = json.loads(blocks("json")[1])
    assert (shown["status"], shown["field"], shown["value"]) == (422, "esn_size", 7)
    assert shown["expected"] in shown["detail"]
