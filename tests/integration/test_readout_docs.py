"""docs/readouts.md: its commands run in their order in an empty folder, and do what is said beside them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.integration.http_server import running

from dtesn_api.names import READOUT_FOLDER
from dtesn_api.spec import parse_manifest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "readouts.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def run(command: str, folder: Path) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DTESN_")}
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), (command, done)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the Debian package curl")
@pytest.mark.timeout(600)
def test_the_commands_lead_from_data_to_a_served_prediction(tmp_path: Path) -> None:
    data, fit, evaluate, config, serve, ask, config_map, python = BLOCKS
    assert run(data, tmp_path).startswith('{"input_data": [')
    assert "classification of 120 samples, 3 labels; chosen by leave-one-out" in run(fit, tmp_path)
    first, *_ = run(evaluate, tmp_path).split("predictions.jsonl")
    assert "200 samples of test.jsonl" in first
    told = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    truth = [json.loads(line)["target"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert sum(one["prediction"] == right for one, right in zip(told, truth, strict=True)) > 0.9 * len(truth)

    run(config, tmp_path)
    assert serve == "dtesn-sidecar serve --config batcher.yaml --host 127.0.0.1 --port 8080\n"
    with running({"DTESN_MODEL_ESN_SIZE": "200"}, "--config", str(tmp_path / "batcher.yaml")) as server:
        answer = json.loads(run(ask.replace("http://127.0.0.1:8080", server.url), tmp_path))
        output = answer["result"]["processed_output"]
        assert (output["output"], output["prediction"], set(output["scores"])) == ("readout", "square", {"sine", "square", "saw"})
        line = json.loads((tmp_path / "test.jsonl").read_text().splitlines()[0])
        (tmp_path / "body").write_text(json.dumps({"input_data": line["input_data"]}))
        asked = run(f"curl -s {server.url}/dtesn/process -H 'Content-Type: application/json' -d @body", tmp_path)
        assert json.loads(asked)["result"]["processed_output"]["prediction"] == told[0]["prediction"]

    run(config_map, tmp_path)
    (value,) = yaml.safe_load((tmp_path / "readouts.yaml").read_text())["binaryData"].values()
    assert base64.b64decode(value) == (tmp_path / "waves.safetensors").read_bytes()
    assert len(value) < 1 << 20

    held_out, document = run(python, tmp_path).split("\n", 1)
    assert held_out.startswith("held out 0.")
    assert held_out.endswith(f"test {json.loads(document)['scores']['accuracy']:.3f}")


def test_what_is_said_of_the_spec_is_so() -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
        spec = parse_manifest({"model": yaml.safe_load(block)})
        assert spec.model.readout is not None
    assert READOUT_FOLDER in TEXT
    for program in re.findall(r"\.\./examples/(\w+\.py)", TEXT):
        assert (PAGE.parents[1] / "examples" / program).exists()
