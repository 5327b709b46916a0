"""From a data set to a served prediction, through the commands: fitted, written, evaluated and served by a real server with its workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
from tests.integration.http_server import SMALL, Server, running

from dtesn_sidecar.__main__ import main

PATH = "/dtesn/process_with_batching"
TEXTS = ["".join(np.random.default_rng(n).choice(list("aeiou" if n % 2 else "bcdfg"), 3 + n % 9)) for n in range(40)]
DEPTH, SIZE = 2, 64  # the small server's own

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DTESN_")]:
        monkeypatch.delenv(name)


def fitted(folder: Path, targets: list[Any], name: str, *more: str) -> tuple[Path, list[dict[str, Any]]]:
    """A readout, and what `evaluate` says that it predicts for TEXTS."""
    data, file, told = folder / f"{name}.jsonl", folder / f"{name}.safetensors", folder / f"{name}.predictions"
    data.write_text("".join(json.dumps({"input_data": text, "target": target}) + "\n" for text, target in zip(TEXTS, targets, strict=True)))
    assert main(["fit", str(data), "--to", str(file), "--depth", str(DEPTH), "--size", str(SIZE), "--json", "--quiet", *more]) == 0
    assert main(["evaluate", str(file), str(data), "--predictions", str(told), "--json", "--quiet"]) == 0
    return file, [json.loads(line) for line in told.read_text().splitlines()]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    return fitted(tmp_path_factory.mktemp("readout"), ["vowels" if n % 2 else "consonants" for n in range(40)], "kinds")


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    return fitted(tmp_path_factory.mktemp("readout"), [[float(len(text)), float(text.count("a"))] for text in TEXTS], "counts")


def same(answer: dict[str, Any], told: dict[str, Any]) -> None:
    """What was served is what `evaluate` said, to the precision that a batch leaves."""
    output = answer["result"]["processed_output"]
    assert output["output"] == "readout"
    if "scores" in told:
        assert output["prediction"] == told["prediction"]
        assert list(output["scores"]) == list(told["scores"])
        np.testing.assert_allclose(list(output["scores"].values()), list(told["scores"].values()), atol=2e-6)
    else:
        assert "scores" not in output
        np.testing.assert_allclose(output["prediction"], told["prediction"], rtol=1e-4, atol=1e-4)


async def post(http: aiohttp.ClientSession, path: str = PATH, **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(path, json={"timeout": 100, **body}) as answer:
        return answer.status, await answer.json()


async def predicted(server: Server, count: int = 40) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(server.url) as http:
        answers = await asyncio.gather(*(post(http, input_data=text) for text in TEXTS[:count]))
    assert {status for status, _ in answers} == {200}
    return [answer for _, answer in answers]


@pytest.mark.parametrize("kind", ["classifier", "regression"])
async def test_what_is_served_in_batches_is_what_evaluate_said(kind: str, request: pytest.FixtureRequest) -> None:
    file, told = request.getfixturevalue(kind)
    with running({"DTESN_MODEL_READOUT_PATH": str(file)}) as server:
        for answer, expected in zip(await predicted(server), told, strict=True):
            same(answer, expected)
        async with aiohttp.ClientSession(server.url) as http:
            status, bulk = await post(http, "/dtesn/batch_process", inputs=TEXTS)
            assert status == 200
            for item, expected in zip(bulk["results"], told, strict=True):
                same(item, expected)


async def test_the_readout_is_the_default_for_its_depth_and_size_and_an_error_for_any_other(classifier: Any) -> None:
    with running({"DTESN_MODEL_READOUT_PATH": str(classifier[0])}) as server:
        async with aiohttp.ClientSession(server.url) as http:
            shown = {}
            for name, options in {
                "default": {},
                "summary": {"output": "summary"},
                "features": {"output": "features"},
                "depth": {"membrane_depth": 1},
                "size": {"esn_size": 32},
            }.items():
                status, answer = await post(http, input_data="aei", **options)
                assert status == 200
                shown[name] = answer["result"]["processed_output"]
            assert {name: output["output"] for name, output in shown.items()} == {
                "default": "readout",
                "summary": "summary",
                "features": "features",
                "depth": "summary",
                "size": "summary",
            }
            assert set(shown["default"]) == {"output", "nodes", "height", "model", "prediction", "scores"}
            for options in ({"membrane_depth": 1}, {"esn_size": 32}):
                status, problem = await post(http, input_data="aei", output="readout", **options)
                assert (status, problem["code"], problem["field"], problem["value"]) == (422, "invalid_input", "output", "readout")
                assert "only for membrane_depth 2 and esn_size 64" in problem["detail"]


async def test_a_worker_that_is_replaced_has_the_readout_of_the_start_whatever_became_of_the_file(
    classifier: Any, regression: Any, tmp_path: Path
) -> None:
    file = tmp_path / "readout.safetensors"
    file.write_bytes(classifier[0].read_bytes())
    with running({"DTESN_MODEL_READOUT_PATH": str(file)}, clean=False) as server:
        file.write_bytes(regression[0].read_bytes())
        workers = [child for child in psutil.Process(server.process.pid).children() if "dtesn_sidecar.compute.worker" in child.cmdline()]
        assert workers
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        psutil.wait_procs(workers)
        for answer, expected in zip(await predicted(server, 8), classifier[1][:8], strict=True):
            same(answer, expected)


def mapped(process: psutil.Process) -> bool:
    """Whether safetensors' library is loaded."""
    return "safetensors" in Path(f"/proc/{process.pid}/maps").read_text()


async def test_safetensors_is_loaded_only_by_a_server_with_a_readout_and_never_by_its_workers(classifier: Any) -> None:
    for environ, loaded in (({}, False), ({"DTESN_MODEL_READOUT_PATH": str(classifier[0])}, True)):
        with running(environ) as server:
            if loaded:
                await predicted(server, 2)
            parent = psutil.Process(server.process.pid)
            assert mapped(parent) is loaded
            assert parent.children()
            assert not any(mapped(child) for child in parent.children())


def refused(file: Path, **environ: str) -> str:
    """Standard error of a server that does not start."""
    whole = {key: value for key, value in os.environ.items() if not key.startswith("DTESN_")}
    done = subprocess.run(
        [sys.executable, "-m", "dtesn_sidecar", "serve", "--host", "127.0.0.1", "--port", "0"],
        env=whole | SMALL | {"DTESN_MODEL_READOUT_PATH": str(file)} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_readout_for_another_network_stops_the_start_and_every_difference_is_named(classifier: Any) -> None:
    words = refused(classifier[0], DTESN_MODEL_SEED="1", DTESN_MODEL_LEAK_RATE="0.5")
    assert "the configuration is not valid (2)" in words
    assert "spec.model.seed is 1, but the readout was fitted with 42" in words
    assert "spec.model.leakRate is 0.5, but the readout was fitted with 0.3" in words


def test_a_tampered_file_stops_the_start(classifier: Any, tmp_path: Path) -> None:
    data = bytearray(classifier[0].read_bytes())
    data[-3] ^= 1
    file = tmp_path / "readout.safetensors"
    file.write_bytes(data)
    assert "changed since it was written: its SHA-256 does not hold" in refused(file)


def test_a_pickle_stops_the_start_unopened(tmp_path: Path) -> None:
    file = tmp_path / "readout.pkl"
    file.write_bytes(b"\x80\x04cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR.")
    assert "a pickle or an archive" in refused(file)
    assert not (tmp_path / "executed").exists()


def test_of_a_config_map_the_place_where_it_is_mounted_is_named(tmp_path: Path) -> None:
    config = tmp_path / "batcher.yaml"
    config.write_text("model: {readout: {configMap: {name: readouts, key: vowels.safetensors}}}\n")
    command = [sys.executable, "-m", "dtesn_sidecar", "serve", "--port", "0", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "/etc/dtesn/readout/vowels.safetensors is unreadable" in done.stderr
