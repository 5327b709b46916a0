from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.unit.model.models import compute, make

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.cli.process import add_parser, read_csv
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.trees import Tree

SMALL = ("--size", "36", "--depth", "2")


def process(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["process", *map(str, arguments)])
    return int(args.run(args))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    content = {
        "note.txt": "hello",
        "tree.json": '{"label": 1, "children": [{"label": 2}]}',
        "flat.json": '{"labels": ["a", "b"], "parents": [-1, 0]}',
        "doc.json": '{"a": [1, null]}',
        "lone.json": '"[]"',
        "list.json": "[1, 2]",
        "page.xml": "<a x='1'><b/></a>",
        "rows.csv": "time;value\n1;2\n\n3;4.5\n",
        "rows.tsv": "1\t2\n3\t4.5\n",
        "bare.csv": "1\n2\n",
        "file": "named like a parameter of numpy.savez",
    }
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in content}


EXPECTED: dict[str, Tree] = {
    "note.txt": parse_input("hello"),
    "tree.json": parse_input({"label": 1, "children": [{"label": 2}]}),
    "flat.json": parse_input({"labels": ["a", "b"], "parents": [-1, 0]}),
    "doc.json": parse_input({"a": [1, None]}, "json"),
    "lone.json": parse_input('"[]"', "json"),
    "list.json": parse_input([1, 2], "json"),
    "page.xml": parse_input("<a x='1'><b/></a>", "xml"),
    "rows.csv": parse_input([[1, 2], [3, 4.5]]),
    "rows.tsv": parse_input([[1, 2], [3, 4.5]]),
    "bare.csv": parse_input([[1], [2]]),
    "file": parse_input("named like a parameter of numpy.savez"),
}


def features_of(tree: Tree) -> np.ndarray:
    return compute(make(36, 2), [(tree, 2)])[0]


def test_the_format_follows_the_suffix_and_json_holds_every_file(files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert process(*files.values(), *SMALL, "--quiet") == 0
    document = json.loads(capfd.readouterr().out)
    default = ModelConfiguration()
    assert document["model"] == {"name": default.name, "seed": default.seed, "membrane_depth": 2, "esn_size": 36}
    assert [result["file"] for result in document["results"]] == [str(path) for path in files.values()]
    for (name, tree), result in zip(EXPECTED.items(), document["results"], strict=True):
        assert (result["nodes"], result["height"], result["shape"]) == (tree.nodes, tree.height, [2, 2, 36]), name
        found = np.array(result["features"], dtype=np.float32).reshape(2, 2, 36)
        np.testing.assert_allclose(found, features_of(tree), rtol=0, atol=2e-6)


def test_npz_holds_one_array_per_file_and_keeps_a_file_given_twice(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    note, odd = files["note.txt"], files["file"]
    assert process(note, odd, note, *SMALL, "--output", "npz", "--to", target) == 0
    with np.load(target) as found:
        assert set(found) == {str(note), str(odd), f"{note} (2)"}
        np.testing.assert_array_equal(found[str(note)], found[f"{note} (2)"])
        np.testing.assert_allclose(found[str(odd)], features_of(EXPECTED["file"]), rtol=0, atol=2e-6)


def test_a_dash_reads_standard_input_and_a_format_overrides_the_suffix(
    files: dict[str, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", argparse.Namespace(buffer=io.BytesIO(b"[[1, 2]]")))
    assert process("-", *SMALL) == 0
    assert json.loads(capfd.readouterr().out)["results"][0]["nodes"] == len("[[1, 2]]")
    assert process(files["list.json"], "--format", "series", *SMALL) == 0
    assert json.loads(capfd.readouterr().out)["results"][0]["height"] == 1


def test_a_file_that_fails_is_named_and_the_others_are_computed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = {
        "empty.txt": "",
        "broken.json": "[1,",
        "bomb.xml": "<!DOCTYPE a><a/>",
        "words.csv": "1,2\n3,x\n",
        "deep.json": "[" * 600 + "]" * 600,
        "none.csv": "a,b\n",
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    (tmp_path / "good.txt").write_text("good")
    names = [*bad, "bytes.txt", "absent.txt", "good.txt"]
    assert process(*(tmp_path / name for name in names), *SMALL) == 1
    out, err = capfd.readouterr()
    results = {Path(result["file"]).name: result for result in json.loads(out)["results"]}
    for name in names[:-1]:
        assert results[name]["error"]["code"] == ("unreadable" if name == "absent.txt" else "invalid_input")
        assert name in err
    assert "line 2, column 2 is 'x'" in err
    assert f"{tmp_path / 'absent.txt'}: No such file or directory" in err
    assert "flat form" in err
    assert results["good.txt"]["nodes"] == 4


def test_more_files_than_one_batch_holds_are_all_computed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("batching: {maxBatchNodes: 64}\nmodel: {maxNodes: 64}\n")
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text("x" * (5 + 4 * i))
    assert process(*(tmp_path / f"{i}.txt" for i in range(12)), *SMALL, "--config", config) == 0
    results = json.loads(capfd.readouterr().out)["results"]
    assert [result["nodes"] for result in results] == [5 + 4 * i for i in range(12)]


def test_nodes_beyond_the_bound_are_refused_and_the_flag_moves_it(files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert process(files["note.txt"], *SMALL, "--max-nodes", 4) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["results"][0]["error"]["code"] == "request_too_large"
    assert "5 nodes, at most 4" in err


def test_trees_without_the_echo_state_property_are_warned_of(files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert process(files["doc.json"], *SMALL) == 0
    assert "echo state property" in capfd.readouterr().err
    assert process(files["note.txt"], *SMALL) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("arguments", [("--size", "3"), ("--depth", "0"), ("--config", "absent.yaml"), ("--backend", "cupy")])
def test_a_wrong_configuration_ends_with_2_and_says_why(
    arguments: tuple[str, ...], files: dict[str, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert process(files["note.txt"], *arguments) == 2
    assert "dtesn-sidecar: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"1,2\n3,4", [[1, 2], [3, 4]]),
        (b"\xef\xbb\xbfa;b\r\n1;2\r\n", [[1, 2]]),
        (b"1e3\n-.5\n", [[1000], [-0.5]]),
        (b"", []),
        (b"a,b\n", []),
    ],
)
def test_csv_is_read_with_or_without_a_header(data: bytes, rows: list[list[float]]) -> None:
    assert read_csv(data) == rows


@pytest.mark.parametrize("data", [b"1,2\n3,\n", b"1,a\n", b"\xff", b'1,"' + b"x" * 200_000 + b'"'])
def test_csv_that_is_not_numbers_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_csv(data)
