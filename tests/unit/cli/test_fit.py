"""`dtesn-sidecar fit` and `evaluate` as one calls them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtesn_sidecar.__main__ import main
from dtesn_sidecar.cli import readouts
from dtesn_sidecar.model.readout.store import load_readout

SMALL = ("--depth", "1", "--size", "32", "--quiet")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Texts of two kinds, vowels or consonants."""
    random = np.random.default_rng(0)
    path = tmp_path / "train.jsonl"
    rows = []
    for kind, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
        rows += [{"input_data": "".join(random.choice(list(letters), random.integers(3, 9))), "target": kind} for _ in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Series whose sum is the target."""
    values = np.random.default_rng(1).normal(size=(40, 5)).round(3)
    path = tmp_path / "train.csv"
    path.write_text("a,b,c,d,e,total\n" + "".join(",".join(map(str, [*row, row.sum()])) + "\n" for row in values))
    return path


FORMATS = ("csv", "tsv", "jsonl", "ndjson", "npz", "ts")


@pytest.fixture
def waves(tmp_path: Path) -> dict[str, Path]:
    """One data set of series that rise or fall, in every format."""
    random = np.random.default_rng(2)
    values = np.sort(random.normal(size=(20, 6)).round(3), axis=1)
    values[::2] = values[::2, ::-1]
    labels = ["falls", "rises"] * 10
    rows = [(list(map(str, row)), label) for row, label in zip(values.tolist(), labels, strict=True)]
    objects = "".join(json.dumps({"input_data": row, "target": label}) + "\n" for row, label in zip(values.tolist(), labels, strict=True))
    head = [*"abcdef", "target"]
    texts = {
        "csv": "".join(",".join(line) + "\n" for line in [head, *([*row, label] for row, label in rows)]),
        "tsv": "".join("\t".join(line) + "\n" for line in [head, *([*row, label] for row, label in rows)]),
        "jsonl": objects,
        "ndjson": objects,
        "ts": "@problemName Waves\n@timeStamps false\n@univariate true\n@equalLength true\n@seriesLength 6\n"
        "@classLabel true falls rises\n@data\n" + "".join(f"{','.join(row)}:{label}\n" for row, label in rows),
    }
    for suffix, text in texts.items():
        (tmp_path / f"waves.{suffix}").write_text(text)
    np.savez(tmp_path / "waves.npz", X=values, y=np.array(labels))
    return {suffix: tmp_path / f"waves.{suffix}" for suffix in FORMATS}


@pytest.fixture
def called(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The exit status, output and errors of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def test_a_classifier_is_fitted_written_and_scored(called: Any, lines: Path, tmp_path: Path) -> None:
    file = tmp_path / "readout.safetensors"
    status, out, err = called("fit", lines, "--to", file, *SMALL, "--seeds", 3, 1, 3, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["task"], report["samples"], report["labels"]) == ("classification", 24, ["consonants", "vowels"])
    assert [trial["seed"] for trial in report["seeds"]] == [3, 1]
    best = min(report["seeds"], key=lambda trial: trial["error"])
    assert report["model"]["seed"] == best["seed"]
    assert report["notes"]["alpha"] == best["alpha"] == min(report["alphas"], key=lambda trial: trial["error"])["alpha"]
    readout = load_readout(file)
    assert (readout.digest, readout.depth, readout.esn_size, readout.model.seed) == (report["sha256"], 1, 32, best["seed"])
    assert readout.notes["seeds_tried"] == [3, 1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644

    predictions = tmp_path / "predictions.jsonl"
    status, out, err = called("evaluate", file, lines, "--json", "--predictions", predictions)
    assert (status, err) == (0, "")
    scores = json.loads(out)["scores"]
    told = [json.loads(line) for line in predictions.read_text().splitlines()]
    truth = [json.loads(line)["target"] for line in lines.read_text().splitlines()]
    assert scores["accuracy"] == np.mean([one["prediction"] == right for one, right in zip(told, truth, strict=True)]) > 0.9
    assert scores["log_loss"] == pytest.approx(
        -np.mean([np.log(one["scores"][right]) for one, right in zip(told, truth, strict=True)]), rel=1e-5
    )
    assert all(max(one["scores"], key=one["scores"].get) == one["prediction"] for one in told)


def test_a_data_set_gives_the_same_readout_and_the_same_scores_in_every_format(called: Any, waves: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for suffix, data in waves.items():
        file = tmp_path / f"{suffix}.safetensors"
        status, _, err = called("fit", data, "--to", file, *SMALL)
        assert (status, err) == (0, ""), suffix
        layer = load_readout(file).layer
        status, out, err = called("evaluate", file, data, "--json")
        assert (status, err) == (0, ""), suffix
        found[suffix] = (layer.weights.tobytes(), layer.intercept.tobytes(), json.loads(out)["scores"])
    assert tuple(found) == FORMATS
    assert all(one == found["csv"] for one in found.values())
    assert found["csv"][2]["accuracy"] == 1


def test_the_tables_are_for_people(called: Any, lines: Path, tmp_path: Path) -> None:
    file = tmp_path / "readout.safetensors"
    _, out, _ = called("fit", lines, "--to", file, *SMALL)
    for words in (
        "classification of 24 samples, 2 labels; chosen by leave-one-out",
        "accuracy",
        "log loss",
        "esnSize: 32",
        f"path: {file}",
    ):
        assert words in out
    _, out, _ = called("evaluate", file, lines)
    for words in ("24 samples of train.jsonl", "consonants", "right label"):
        assert words in out


def test_a_regression_learns_a_sum(called: Any, table: Path, tmp_path: Path) -> None:
    file = tmp_path / "readout.safetensors"
    config = tmp_path / "config.yaml"
    config.write_text("model: {membraneDepth: 1, esnSize: 64, leakRate: 1, inputScaling: 0.1, spectralRadius: 1, dtype: float64}\n")
    status, out, err = called("fit", table, "--to", file, "--config", config, "--target", "total", "--folds", 5, "--json", "--quiet")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["task"], report["labels"], report["notes"]["cross_validation"]) == ("regression", None, "5 folds")
    assert report["notes"]["held_out"]["r2"] > 0.99
    status, out, _ = called("evaluate", file, table, "--target", "total", "--config", config, "--json")
    assert status == 0
    assert json.loads(out)["scores"]["mae"] < 0.05


def test_a_fit_gives_the_same_file_every_time(called: Any, lines: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        assert called("fit", lines, "--to", file, *SMALL, "--folds", 3)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_features_that_lie_in_a_file_give_the_same_readout(
    called: Any, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called("fit", lines, "--to", tmp_path / "one", *SMALL)[0] == 0
    monkeypatch.setattr(readouts, "IN_MEMORY", 0)
    assert called("fit", lines, "--to", tmp_path / "two", *SMALL)[0] == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_every_bad_row_is_told_and_no_file_is_written(called: Any, tmp_path: Path) -> None:
    data = tmp_path / "bad.csv"
    data.write_text("x,y,target\n1,2,3\n1,two,3\n1,2,\n4,,1\nx,1,1\n")
    status, out, err = called("fit", data, "--to", tmp_path / "readout", *SMALL)
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "dtesn-sidecar: bad.csv line 3, column 'y' is 'two', expected a finite number (only the end of a series may be empty)",
        "dtesn-sidecar: bad.csv line 6, column 'x' is 'x', expected a finite number (only the end of a series may be empty)",
    ]
    data.write_text("x,y,target\n1,2,3\n1,2,\n1,2,nan\n")
    status, _, err = called("fit", data, "--to", tmp_path / "readout", *SMALL)
    assert (status, err.splitlines()) == (
        2,
        [
            "dtesn-sidecar: bad.csv line 3, target 'target' is missing, expected a finite number",
            "dtesn-sidecar: bad.csv line 4, target 'target' is 'nan', expected a finite number",
        ],
    )
    assert os.listdir(tmp_path) == ["bad.csv"]


@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        ("a,x\nb,x\nc,x\n", (), "only the class 'x'"),
        (
            "a,x\nb,y\nc,y\n",
            (),
            "leave-one-out needs at least 2 samples of each class, or a class would have none to learn from: 'x' has 1",
        ),
        ("a,x\nb,y\nc,y\nd,x\n", ("--folds", "3"), "'x' has 2"),
        ("a,1\nb,2\n", (), "2 samples are too few"),
        ("a,x\nb,y\nc,y\nd,x\n", ("--alphas", "0"), "alphas is [0.0]"),
        ("a,x\nb,y\nc,y\nd,x\n", ("--seeds", "-1"), "seed is -1"),
        ("a,x\nb,y\nc,y\nd,x\n", ("--task", "regression"), "target 'target' is 'x', expected a finite number"),
        ("a,x\nb,y\nc,y\nd,x\n", ("--target", "nothing"), "no column 'nothing'; it has 'text', 'target'"),
        ("a,x\nb,y\nc,y\nd,x\n", ("--max-nodes", "1", "--input", "text", "--input-format", "json"), "no JSON"),
        ("abc,x\n", ("--max-nodes", "2"), "line 2: the input"),
        ("a,x\nb,y\nc,y\nd,x\n", ("--to", "/nowhere/at/all"), "there is no folder /nowhere/at"),
    ],
)
def test_what_cannot_be_fitted_is_an_error_of_one_line(rows: str, more: tuple[str, ...], words: str, called: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text(f"text,target\n{rows}")
    status, _, err = called("fit", data, "--to", tmp_path / "readout", *SMALL, *more)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


def test_a_best_regularisation_at_the_edge_is_warned_of(called: Any, lines: Path, tmp_path: Path) -> None:
    arguments = ("fit", lines, "--to", tmp_path / "readout", "--depth", 1, "--size", 32, "--alphas", "1e6", "1e7", "1e8")
    assert "the last that was tried" in called(*arguments)[2]
    assert called(*arguments, "--quiet")[2] == ""


def test_a_readout_of_another_network_is_refused_by_the_fields_that_differ(called: Any, lines: Path, tmp_path: Path) -> None:
    file, config = tmp_path / "readout", tmp_path / "config.yaml"
    assert called("fit", lines, "--to", file, *SMALL)[0] == 0
    config.write_text("model: {seed: 5, leakRate: 0.5}\n")
    status, _, err = called("evaluate", file, lines, "--config", config)
    assert status == 2
    assert "spec.model.seed is 5, but the readout was fitted with 42" in err
    assert "spec.model.leakRate is 0.5, but the readout was fitted with 0.3" in err


def test_data_that_does_not_fit_the_readout_is_refused(called: Any, lines: Path, table: Path, tmp_path: Path) -> None:
    classifier, regression = tmp_path / "one", tmp_path / "two"
    assert called("fit", lines, "--to", classifier, *SMALL)[0] == 0
    assert called("fit", table, "--to", regression, "--target", "total", *SMALL)[0] == 0
    other = tmp_path / "other.jsonl"
    other.write_text('{"input_data": "abc", "target": "digits"}\n')
    status, _, err = called("evaluate", classifier, other)
    assert status == 2
    assert "other.jsonl line 1, target 'target' is 'digits', expected one of the labels that the readout knows: consonants, vowels" in err
    status, _, err = called("evaluate", regression, table, "--target", "total", "--target", "a")
    assert status == 2
    assert "the data has 2 targets, the readout predicts 1" in err
    assert called("evaluate", lines, lines)[0] == 2


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_help_is_worth_reading(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    for words in ("try it:", "exit status:", ".jsonl", "lengths [n]", "--target"):
        assert words in out
