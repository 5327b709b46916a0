"""The two examples on real data, run as programs: what they print is what they reach. Both choose by training data alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dtesn_sidecar.model.readout.store import load_readout

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def printed(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *arguments],
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
    output = printed("japanese_vowels.py", str(file))
    assert "270 utterances for training, 370 for the test, 9 speakers" in output
    assert figure("accuracy │", output) >= 98.5
    readout = load_readout(file)
    assert (readout.depth, readout.esn_size, readout.labels) == (1, 400, tuple("123456789"))
    assert readout.digest in output


@pytest.mark.timeout(600)
def test_the_boiling_points_of_alkanes_are_met() -> None:
    output = printed("alkanes.py")
    assert "135 alkanes" in output
    assert figure("mean absolute error", output) <= 2.5
