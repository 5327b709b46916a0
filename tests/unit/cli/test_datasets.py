"""Data sets: every format read alike, every bad row named by line and column."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.problems import SpecInvalid
from dtesn_sidecar.cli.dataset_rows import Columns
from dtesn_sidecar.cli.datasets import DataSet, read_dataset, targets_of
from dtesn_sidecar.errors import InvalidInput

SERIES = [np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[7.0, 8.0]]), np.array([[0.5, -1.0], [2.0, 3.0]])]
LABELS = ["yes", "no", "yes"]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(path: Path, columns: Columns | None = None, max_nodes: int = 100) -> DataSet:
    return read_dataset(path, columns or Columns(), max_nodes)


def ts(folder: Path, rows: str, head: str = "@timeStamps false\n@classLabel true yes no\n") -> Path:
    return written(folder, "data.ts", f"# a comment\n@problemName Test\n{head}@data\n{rows}")


def test_one_data_set_is_the_same_in_every_format(tmp_path: Path) -> None:
    padded = np.zeros((3, 3, 2))
    for at, series in enumerate(SERIES):
        padded[at, : len(series)] = series
    np.savez(tmp_path / "data.npz", X=padded, y=np.array(LABELS), lengths=np.array([3, 1, 2]))
    lines = "".join(f'{{"input_data": {one.tolist()}, "target": "{label}"}}\n' for one, label in zip(SERIES, LABELS, strict=True))
    rows = "".join(
        ":".join(",".join(map(str, channel)) for channel in one.T) + f":{label}\n" for one, label in zip(SERIES, LABELS, strict=True)
    )
    table = "target,series\n" + "".join(f'{label},"{one.tolist()}"\n' for one, label in zip(SERIES, LABELS, strict=True))
    for data in (
        read(tmp_path / "data.npz"),
        read(written(tmp_path, "data.jsonl", lines)),
        read(ts(tmp_path, rows)),
        read(written(tmp_path, "data.csv", table), Columns(input="series", input_format="series")),
    ):
        assert data.task == "classification"
        for tree, series in zip(data.trees, SERIES, strict=True):
            np.testing.assert_array_equal(tree.labels, series)
        targets = targets_of(data, "classification")
        assert targets.labels == ("no", "yes")
        assert targets.values.tolist() == [[-1, 1], [1, -1], [-1, 1]]


def test_a_csv_of_texts_and_one_of_series_of_different_lengths(tmp_path: Path) -> None:
    texts = read(written(tmp_path, "a.csv", 'text,label\nhello,1\n"a, b",2\n'))
    assert [bytes(tree.labels) for tree in texts.trees] == [b"hello", b"a, b"]
    assert texts.task == "regression"
    series = read(written(tmp_path, "b.tsv", "a\tb\tc\ty\n1\t2\t3\t0.5\n4\t\t\t1\n"))
    assert [tree.labels[:, 0].tolist() for tree in series.trees] == [[1, 2, 3], [4]]
    assert targets_of(series, "regression").values.tolist() == [[0.5], [1.0]]


def test_several_targets_are_one_vector(tmp_path: Path) -> None:
    table = written(tmp_path, "a.csv", "u,v,x\n1,2,3\n4,5,6\n")
    assert targets_of(read(table, Columns(targets=("v", "u"))), "regression").values.tolist() == [[2, 1], [5, 4]]
    lines = written(tmp_path, "a.jsonl", '{"input_data": "x", "target": [1, 2]}\n\n{"input_data": {"label": 1}, "target": [3, 4]}\n')
    assert targets_of(read(lines), "regression").values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("value", "label"), [("1", "1"), (1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), ("é", "é")])
def test_a_label_is_a_text_whatever_it_was(value: object, label: str) -> None:
    data = DataSet([], [(value,), ("other",)], ["a", "b"], ("target",))
    assert label in (targets_of(data, "classification").labels or ())


CSV_FAULTS = {
    "a word": ("x0,x1,target\n1,2,0\n3,four,1\n", ["a.csv line 3, column 'x1' is 'four', expected a finite number"]),
    "a gap": ("x0,x1,target\n,2,0\n", ["line 2, column 'x0' is empty"]),
    "NaN": ("x0,x1,target\n1,nan,0\n", ["line 2, column 'x1' is 'nan'"]),
    "a cell too few": ("x0,x1,target\n1,2,0\n1,2\n", ["line 3 is of 2 cells, expected of 3 cells"]),
    "nothing": ("x0,target\n,1\n", ["line 2", "the input"]),
    "all that is wrong": ("x0,x1,target\na,1,1\n1,b,1\n1,2,1\nc,1,1\n", ["line 2", "line 3", "line 5"]),
    "a quote across lines": ('x0,text,target\n1,"a\nb",1\n1,2,1\n', ["line 3, column 'text'"]),
}


@pytest.mark.parametrize("name", CSV_FAULTS)
def test_a_bad_row_of_a_csv_is_named_by_line_and_column(name: str, tmp_path: Path) -> None:
    text, words = CSV_FAULTS[name]
    with pytest.raises(SpecInvalid) as refused:
        read(written(tmp_path, "a.csv", text))
    messages = [problem.message for problem in refused.value.problems]
    assert len(messages) == max(1, len(words) if name == "all that is wrong" else 1)
    assert all(any(word in message for message in messages) for word in words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"input_data": [1], "target": 1}\n{"input_data": [1, "x"], "target": 1}\n', r"line 2: the input\[1\]"),
        ("a.jsonl", '{"input_data": [1], "target": 1}\n{oops\n', "line 2 is no JSON"),
        ("a.jsonl", '[1]\n', "line 1 is without 'input_data'"),
        ("a.jsonl", '{"input_data": [1]}\n', "line 1 is without 'target'"),
        ("a.jsonl", '{"input_data": "' + "a" * 101 + '", "target": 1}\n', "101"),
        ("a.csv", 'text,target\n"[1",1\n', None),
        ("a.ts", "@classLabel true a b\n@data\n1,2:3,4:a\n1,2:3:b\n", "line 4 is of dimensions of different lengths"),
        ("a.ts", "@classLabel true a b\n@data\n1,2:3,?:a\n", r"line 3, dimension 2, value 2 is '\?'"),
        ("a.ts", "@classLabel true a b\n@data\n1,2:3,4:a\n1,2:b\n", "line 4 is of 1 dimensions"),
        ("a.ts", "@classLabel true a b\n@data\n1,2:c\n", "line 3, label is 'c', expected one of the labels in @classLabel"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(name: str, text: str, words: str | None, tmp_path: Path) -> None:
    if words is None:
        assert read(written(tmp_path, name, text)).trees  # a text that looks like broken JSON is a text
        return
    with pytest.raises(SpecInvalid, match=words):
        read(written(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x", "must end in .csv"),
        ("a.csv", "", "no column"),
        ("a.csv", "x,target\n", "holds no samples"),
        ("a.csv", "x0,x1\n1,2\n", "has no column 'target, label or y'; it has 'x0', 'x1'"),
        ("a.csv", "x,target\n\"a,1\n", "is no CSV"),
        ("a.ts", "1,2:a\n", "line 1 comes before @data"),
        ("a.ts", "@classLabel true a\n", "no line @data"),
        ("a.ts", "@timeStamps true\n@classLabel true a\n@data\n", "time stamps"),
        ("a.ts", "@classLabel false\n@data\n1:2\n", "nothing to predict"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_an_error_of_one_sentence(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words):
        read(written(tmp_path, name, text))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"X": np.array([{"a": 1}], dtype=object), "y": np.array([1])}, "allow_pickle"),
        ({"y": np.array([1])}, "no array 'X', only 'y'"),
        ({"X": np.zeros((2, 3))}, "no array 'target, label or y'"),
        ({"X": np.zeros((2, 3)), "y": np.zeros(3)}, "one row for each of 2 samples"),
        ({"X": np.zeros((2, 3), dtype=complex), "y": np.zeros(2)}, "expected numbers"),
        ({"X": np.zeros((2, 3, 1, 1)), "y": np.zeros(2)}, "expected numbers"),
        ({"X": np.zeros((2, 3)), "y": np.zeros(2), "lengths": np.zeros(2)}, "lengths must be whole numbers"),
    ],
)
def test_an_npz_that_does_not_do_is_refused_and_never_unpickled(arrays: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidInput, match=words):
        read(tmp_path / "a.npz")


def test_a_length_out_of_range_and_a_number_that_is_none_are_named_by_their_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.array([[1.0, 2.0], [np.inf, 1.0], [1.0, 2.0]]), y=np.zeros(3), lengths=np.array([0, 2, 2]))
    with pytest.raises(SpecInvalid) as refused:
        read(tmp_path / "a.npz")
    first, second = (problem.message for problem in refused.value.problems)
    assert "a.npz sample 1 is of length 0" in first
    assert "a.npz sample 2" in second


@pytest.mark.parametrize(
    ("targets", "task", "words"),
    [
        ([(1,), (None,)], "regression", "row 2, target 'y' is missing, expected a finite number"),
        ([(1,), ("nan",)], "regression", "row 2, target 'y' is 'nan'"),
        ([(1,), ("inf",)], "regression", "row 2, target 'y' is 'inf'"),
        ([(1,), ("a",)], "regression", "row 2, target 'y' is 'a'"),
        ([("a",), ("",)], "classification", "row 2, target 'y' is missing, expected a label"),
        ([("a",), (float("nan"),)], "classification", "row 2, target 'y' is missing"),
        ([("a",), ("b" * 300,)], "classification", "at most 256 characters"),
        ([("a",), ("b", "c")], "classification", "expected one label"),
        ([(1,), (1, 2)], "regression", "expected 1 numbers, as row 1 has"),
    ],
)
def test_a_target_that_does_not_do_is_named(targets: list[tuple[object, ...]], task: str, words: str) -> None:
    data = DataSet([], targets, [f"row {at}" for at in range(1, 3)], ("y",))
    with pytest.raises(SpecInvalid, match=words):
        targets_of(data, task)  # type: ignore[arg-type]


def test_one_class_is_refused_and_so_are_too_many() -> None:
    rows = [f"row {at}" for at in range(2000)]
    with pytest.raises(InvalidInput, match="only the class 'a'"):
        targets_of(DataSet([], [("a",)] * 2000, rows, ("y",)), "classification")
    with pytest.raises(InvalidInput, match="2000 different labels"):
        targets_of(DataSet([], [(at,) for at in range(2000)], rows, ("y",)), "classification")


def test_a_label_that_the_readout_does_not_know_is_named() -> None:
    data = DataSet([], [("a",), ("c",)], ["row 1", "row 2"], ("y",))
    with pytest.raises(SpecInvalid, match="row 2, target 'y' is 'c', expected one of the labels that the readout knows: a, b"):
        targets_of(data, "classification", ("a", "b"))
    assert targets_of(DataSet([], [("b",)], ["row 1"], ("y",)), "classification", ("a", "b")).values.tolist() == [[-1, 1]]


def test_of_many_bad_rows_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as refused:
        read(written(tmp_path, "a.csv", "x0,x1,target\n" + "1,b,1\n" * 100))
    assert len(refused.value.problems) == 17
    assert refused.value.problems[-1].message == "... and 84 more"


@given(
    st.binary(max_size=200) | st.binary(max_size=80).map(b"PK\x05\x06".__add__), st.sampled_from([".csv", ".tsv", ".jsonl", ".ts", ".npz"])
)
def test_no_file_breaks_the_reader(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"data{suffix}")
        path.write_bytes(data)
        with contextlib.suppress(InvalidInput, SpecInvalid):
            read(path)
