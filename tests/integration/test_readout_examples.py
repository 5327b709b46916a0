"""The two examples on real data, run as programs: what they print is what they reach. Both choose by training data alone.

The command line reaches the same on the files as they are published.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dtesn_sidecar.model.readout.store import load_readout

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def printed(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.stderr == ""
    return done.stdout


def figure(name: str, output: str) -> float:
    match = re.search(rf"{name}\W+([0-9.]+)", output)
    assert match, output
    return float(match[1])


@pytest.mark.timeout(600)
def test_the_speakers_of_japanese_vowels_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "readout.safetensors"
    output = printed(str(EXAMPLES / "japanese_vowels.py"), str(file))
    assert "270 utterances for training, 370 for the test, 9 speakers" in output
    assert figure("accuracy │", output) >= 98.5
    readout = load_readout(file)
    assert (readout.depth, readout.esn_size, readout.labels) == (1, 400, tuple("123456789"))
    assert readout.digest in output


def test_the_command_line_reaches_it_too_from_the_published_files(tmp_path: Path) -> None:
    package = find_spec("sktime")
    assert package is not None
    assert package.origin is not None
    data = Path(package.origin).parent / "datasets" / "data" / "JapaneseVowels"
    config, file = tmp_path / "vowels.yaml", tmp_path / "readout.safetensors"
    config.write_text("model: {membraneDepth: 1, esnSize: 400, leakRate: 0.3, spectralRadius: 0.5}\n")
    command = ("-m", "dtesn_sidecar")
    fit = ("fit", str(data / "JapaneseVowels_TRAIN.ts"), "--to", str(file), "--config", str(config), "--seeds", "0", "1", "2", "--json")
    report = json.loads(printed(*command, *fit))
    assert (report["samples"], report["labels"], len(report["seeds"])) == (270, list("123456789"), 3)
    document = json.loads(printed(*command, "evaluate", str(file), str(data / "JapaneseVowels_TEST.ts"), "--json"))
    assert document["samples"] == 370
    assert document["scores"]["accuracy"] >= 0.985


@pytest.mark.timeout(600)
def test_the_boiling_points_of_alkanes_are_met() -> None:
    output = printed(str(EXAMPLES / "alkanes.py"))
    assert "135 alkanes" in output
    assert figure("mean absolute error", output) <= 2.5
