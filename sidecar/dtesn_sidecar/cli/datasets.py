"""Data sets for `fit` and `evaluate`: CSV, JSON-lines, NPZ and `.ts` files, read whole, every bad row named with line and column.

An input becomes a `Tree` at once (`model.inputs` knows the formats); what the targets mean is decided here, what is done with them in
`model.readout.fitting`.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from dtesn_api.problems import Problem, SpecInvalid
from dtesn_sidecar.errors import DTESNError, InvalidInput
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.readout.fitting import Targets, class_targets, number_targets
from dtesn_sidecar.model.readout.store import MAX_LABEL, MAX_OUTPUTS
from dtesn_sidecar.model.trees import Tree

Task = Literal["classification", "regression"]
FORMATS: Final = ".csv, .tsv, .jsonl, .ndjson, .npz or .ts"
_MOST_NAMED: Final = 16
_UNREADABLE: Final = (ValueError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""Of NumPy and its archives. An array of Python objects is a ValueError: it would need pickle, which is never used."""
_JSON_FORMATS: Final = ("series", "tree", "json")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns, keys or arrays hold the targets (none: those of the usual names) and the input, and the input's format."""

    targets: tuple[str, ...] = ()
    input: str | None = None
    input_format: str = "auto"


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """The inputs, and for each a row of `targets`: the text of a label, or numbers. `where` names each for messages."""

    trees: list[Tree]
    targets: list[tuple[object, ...]]
    where: list[str]
    names: tuple[str, ...]
    declared: Task | None = None

    @property
    def task(self) -> Task:
        """What the file declares, else what its targets look like: numbers are a regression."""
        numbers = all(_as_number(value) is not None or _missing(value) for value in chain.from_iterable(self.targets))
        return self.declared or ("regression" if numbers else "classification")


def read_dataset(path: Path, columns: Columns, max_nodes: int) -> DataSet:
    """The data set in a file. Raises SpecInvalid with the bad rows, InvalidInput for what is wrong with the file as a whole, OSError."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{path.name} is no data set that can be read: its name must end in {FORMATS}", field="DATA", expected=FORMATS)
    rows = _Rows(path.name, columns, max_nodes)
    reader(path, rows)
    if rows.faults:
        raise SpecInvalid(rows.told())
    if not rows.trees:
        raise InvalidInput(f"{path.name} holds no samples", field="DATA", expected="at least one sample")
    return DataSet(rows.trees, rows.targets, rows.where, rows.names, rows.declared)


def targets_of(data: DataSet, task: Task, labels: tuple[str, ...] | None = None) -> Targets:
    """The targets as numbers. With `labels` (of a fitted classifier) only they may occur.

    Raises SpecInvalid with the rows whose target is missing, no finite number, or no known label, and InvalidInput where all together
    will not do.
    """
    faults: list[Problem] = []

    def fault(at: int, value: object, expected: str) -> None:
        place = f"{data.where[at]}, target {data.names[0]!r}" if len(data.names) == 1 else f"{data.where[at]}, targets"
        faults.append(_problem(place, "missing" if _missing(value) else repr(value)[:60], expected))

    if task == "regression":
        table = [[_as_number(value) for value in row] for row in data.targets]
        for at, (row, numbers) in enumerate(zip(data.targets, table, strict=True)):
            wrong = [value for value, number in zip(row, numbers, strict=True) if number is None or not isfinite(number)]
            if wrong:
                fault(at, wrong[0], "a finite number")
            elif len(row) != len(data.targets[0]):
                fault(at, f"{len(row)} numbers", f"{len(data.targets[0])} numbers, as {data.where[0]} has")
        if faults:
            raise SpecInvalid(_most(faults))
        if len(data.targets[0]) > MAX_OUTPUTS:
            raise InvalidInput(f"{len(data.targets[0])} targets are more than {MAX_OUTPUTS}", field="targets")
        return number_targets(np.array(table, dtype=np.float64))
    names = [_label(row) for row in data.targets]
    for at, name in enumerate(names):
        if len(data.targets[at]) != 1:
            fault(at, f"{len(data.targets[at])} values", "one label")
        elif name is None or not name:
            fault(at, None, "a label")
        elif len(name) > MAX_LABEL:
            fault(at, name, f"a label of at most {MAX_LABEL} characters")
        elif labels is not None and name not in labels:
            fault(at, name, "one of the labels that the readout knows: " + ", ".join(labels[:20]))
    if faults:
        raise SpecInvalid(_most(faults))
    found = [name for name in names if name is not None]
    if labels is not None:
        numbers_of = {name: number for number, name in enumerate(labels)}
        return Targets(np.where(np.arange(len(labels)) == np.array([numbers_of[name] for name in found])[:, None], 1.0, -1.0), labels)
    if len(set(found)) > MAX_OUTPUTS:
        raise InvalidInput(
            f"there are {len(set(found))} different labels, at most {MAX_OUTPUTS} are allowed; are these numbers to be predicted? Then say "
            "--task regression",
            field="targets",
        )
    return class_targets(found)


@dataclass(slots=True)
class _Rows:
    """What has been read so far."""

    file: str
    columns: Columns
    max_nodes: int
    trees: list[Tree] = field(default_factory=list)
    targets: list[tuple[object, ...]] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ("target",)
    declared: Task | None = None
    faults: list[Problem] = field(default_factory=list)

    def fault(self, place: str, value: str, expected: str) -> None:
        self.faults.append(_problem(f"{self.file} {place}", value, expected))

    def add(self, place: str, data: object, targets: tuple[object, ...], *, form: str | None = None) -> None:
        """One sample; `data` is what `parse_input` takes."""
        where = f"{self.file} {place}"
        try:
            tree = parse_input(data, form or self.columns.input_format, max_nodes=self.max_nodes, field=f"{where}: the input")
        except DTESNError as error:
            self.faults.append(Problem(field=where, value=None, expected="an input", message=error.detail))
            return
        self.trees.append(tree)
        self.targets.append(targets)
        self.where.append(where)

    def told(self) -> list[Problem]:
        return _most(self.faults)

    def target_names(self, there: Sequence[str], what: str) -> tuple[str, ...]:
        """The columns with the targets. Raises InvalidInput where they are not there."""
        wanted = self.columns.targets or tuple(name for name in ("target", "label", "y") if name in there)[:1]
        absent = [name for name in wanted if name not in there]
        if absent or not wanted:
            missing, there = absent[0] if absent else "target, label or y", list(there)[:20]
            raise InvalidInput(
                f"{self.file} has no {what} {missing!r}; it has {', '.join(map(repr, there))}: name the target with --target",
                field="--target",
                expected="one of " + ", ".join(there),
            )
        return wanted


def _read_csv(path: Path, rows: _Rows) -> None:
    lines = csv.reader(io.StringIO(_text(path)), delimiter=_delimiter(path), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        rows.names = rows.target_names(header, "column")
        at = [header.index(name) for name in rows.names]
        inputs = [number for number in range(len(header)) if number not in at]
        if rows.columns.input is not None:
            if rows.columns.input not in header:
                raise InvalidInput(f"{rows.file} has no column {rows.columns.input!r}", field="--input", expected=", ".join(header[:20]))
            inputs = [header.index(rows.columns.input)]
        for cells in lines:
            if cells:
                _csv_row(rows, f"line {lines.line_num}", header, cells, inputs, at)
    except csv.Error as error:
        raise InvalidInput(f"{rows.file} line {lines.line_num} is no CSV: {error}", field="DATA") from None


def _csv_row(rows: _Rows, place: str, header: list[str], cells: list[str], inputs: list[int], targets: list[int]) -> None:
    if len(cells) != len(header):
        rows.fault(place, f"of {len(cells)} cells", f"of {len(header)} cells, as the header has")
        return
    told = tuple(cells[number].strip() for number in targets)
    if len(inputs) == 1 and (rows.columns.input is not None or _as_number(cells[inputs[0]]) is None):
        form, cell = rows.columns.input_format, cells[inputs[0]]
        if form in _JSON_FORMATS:
            try:
                rows.add(place, msgspec.json.decode(cell), told)
            except (msgspec.MsgspecError, RecursionError) as error:
                rows.fault(f"{place}, column {header[inputs[0]]!r}", "no JSON", f"JSON, as --input-format {form} says ({error})")
        else:
            rows.add(place, cell, told, form="text" if form == "auto" else form)
        return
    while inputs and not cells[inputs[-1]].strip():  # a shorter series
        inputs = inputs[:-1]
    values = [_as_number(cells[number]) for number in inputs]
    for number, value in zip(inputs, values, strict=True):
        if value is None or not isfinite(value):
            shown = repr(cells[number][:40]) if cells[number].strip() else "empty"
            rows.fault(f"{place}, column {header[number]!r}", shown, "a finite number (only the end of a series may be empty)")
            return
    rows.add(place, values, told, form="series")


def _read_lines(path: Path, rows: _Rows) -> None:
    name = rows.columns.input or "input_data"
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            sample = msgspec.json.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            rows.fault(place, "no JSON", f"one JSON object ({error})")
            continue
        if not isinstance(sample, dict) or name not in sample:
            rows.fault(place, f"without {name!r}", f"an object with {name!r} and a target")
            continue
        wanted = rows.columns.targets or ("target",)
        absent = [key for key in wanted if key not in sample]
        rows.names = wanted
        if absent:
            rows.fault(place, f"without {absent[0]!r}", "an object with an input and a target (named with --target)")
            continue
        values = [value if isinstance(value, list) else [value] for value in (sample[key] for key in wanted)]
        rows.add(place, sample[name], tuple(chain.from_iterable(values)))


def _read_npz(path: Path, rows: _Rows) -> None:
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] != b"PK":  # NumPy would read other formats under this name too
                raise InvalidInput(f"{rows.file} is no NPZ file", field="DATA", expected="what numpy.savez writes")
            archive = np.load(file, allow_pickle=False)
            names = list(archive.files)
            inputs = archive[_array_name(rows, names, rows.columns.input or "X", "--input")]
            rows.names = rows.target_names(names, "array")
            targets = [archive[name] for name in rows.names]
            lengths = archive["lengths"] if "lengths" in names else None
    except _UNREADABLE as error:
        raise InvalidInput(f"{rows.file} cannot be read: {error}", field="DATA", expected="an NPZ file of numbers and texts") from None
    n = len(inputs) if inputs.ndim else 0
    for name, array in (("lengths", lengths), *zip(rows.names, targets, strict=True)):
        if array is not None and (array.ndim < 1 or len(array) != n or array.ndim > 2):
            raise InvalidInput(f"{rows.file}: {name} has the shape {array.shape}, expected one row for each of {n} samples", field="DATA")
    if lengths is not None and (lengths.dtype.kind not in "iu" or lengths.ndim != 1 or inputs.ndim < 2):
        raise InvalidInput(f"{rows.file}: lengths must be whole numbers [n], beside inputs [n, T] or [n, T, d]", field="DATA")
    if inputs.dtype.kind not in "iufU" or not 1 <= inputs.ndim <= 3:
        given = f"{inputs.dtype}{list(inputs.shape)}"
        raise InvalidInput(f"{rows.file}: the inputs are {given}, expected numbers [n, T] or [n, T, d], or texts [n]", field="DATA")
    for at in range(n):
        told = tuple(value for array in targets for value in np.atleast_1d(array[at]).tolist())
        sample = inputs[at]
        if lengths is not None:
            if not 1 <= lengths[at] <= len(sample):
                rows.fault(f"sample {at + 1}", f"of length {lengths[at]}", f"of length 1 to {len(sample)}")
                continue
            sample = sample[: int(lengths[at])]
        text = inputs.dtype.kind == "U"
        rows.add(f"sample {at + 1}", str(sample) if text else np.atleast_1d(sample), told, form="text" if text else "series")


def _array_name(rows: _Rows, names: Sequence[str], wanted: str, flag: str) -> str:
    if wanted not in names:
        raise InvalidInput(f"{rows.file} has no array {wanted!r}, only {', '.join(map(repr, names))}: name it with {flag}", field=flag)
    return wanted


def _read_ts(path: Path, rows: _Rows) -> None:
    """`.ts` of the UEA and UCR archives, as `aeon` and `sktime` write it: dimensions parted by ':', values by ',', the target last."""
    head: dict[str, list[str]] = {}
    lines = iter(enumerate(_text(path).split("\n"), start=1))
    for number, line in lines:
        words = line.strip().split()
        if not words or words[0].startswith("#"):
            continue
        if not words[0].startswith("@"):
            raise InvalidInput(f"{rows.file} line {number} comes before @data", field="DATA", expected="a line that begins with @ or #")
        head[words[0][1:].lower()] = words[1:]
        if words[0].lower() == "@data":
            break
    rows.declared = _ts_task(rows, head)
    rows.names = ("label",) if rows.declared == "classification" else ("target",)
    known = set(head.get("classlabel", [])[1:])
    dimensions: int | None = None
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        *parts, target = line.strip().split(":")
        place = f"line {number}"
        if dimensions is None:
            dimensions = len(parts)
        if len(parts) != dimensions or not parts:
            rows.fault(place, f"of {len(parts)} dimensions", f"of {max(dimensions, 1)} dimensions and a target, parted by ':'")
        elif known and target.strip() not in known:
            rows.fault(f"{place}, label", repr(target.strip()[:40]), "one of the labels in @classLabel")
        else:
            _ts_row(rows, place, parts, target.strip())


def _ts_task(rows: _Rows, head: dict[str, list[str]]) -> Task:
    if "data" not in head:
        raise InvalidInput(f"{rows.file} has no line @data", field="DATA", expected="a .ts file")
    if head.get("timestamps", ["false"])[:1] == ["true"]:
        raise InvalidInput(f"{rows.file} has time stamps, which are not read: @timeStamps must be false", field="DATA")
    for key, task in (("classlabel", "classification"), ("targetlabel", "regression")):
        if head.get(key, ["false"])[0].lower() == "true":
            return task  # type: ignore[return-value]
    raise InvalidInput(f"{rows.file} has neither @classLabel true nor @targetlabel true: there is nothing to predict", field="DATA")


def _ts_row(rows: _Rows, place: str, parts: Sequence[str], target: str) -> None:
    channels: list[list[float]] = []
    for number, part in enumerate(parts, start=1):
        cells = part.split(",")
        values = [_as_number(cell) for cell in cells]
        wrong = next((at for at, value in enumerate(values) if value is None or not isfinite(value)), None)
        if wrong is not None:
            column = f"{place}, dimension {number}, value {wrong + 1}"
            rows.fault(column, repr(cells[wrong][:40]), "a finite number (missing values are not filled in)")
            return
        channels.append([value for value in values if value is not None])
    if len({len(channel) for channel in channels}) > 1:
        rows.fault(place, "of dimensions of different lengths", "of one length in all dimensions")
        return
    rows.add(place, np.array(channels).T, (target,), form="series")


_READERS: Final[dict[str, Callable[[Path, _Rows], None]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".npz": _read_npz,
    ".ts": _read_ts,
}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeError as error:
        raise InvalidInput(f"{path.name} is no UTF-8 text: {error}", field="DATA", expected="UTF-8") from None


def _delimiter(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    return next((mark for mark in ",;\t" if mark in first), ",")


def _as_number(value: object) -> float | None:
    """The number that a cell says; None for what is no number. NaN and infinities are numbers here, to be named as such."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value) if "_" not in value else None
        except ValueError:
            return None
    return None


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)


def _label(row: Sequence[object]) -> str | None:
    if not row or _missing(row[0]):
        return None
    value = row[0]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _problem(where: str, value: str, expected: str) -> Problem:
    return Problem(field=where, value=value, expected=expected, message=f"{where} is {value}, expected {expected}")


def _most(faults: Sequence[Problem]) -> list[Problem]:
    """The first few, and how many more there are."""
    rest = len(faults) - _MOST_NAMED
    more = Problem(field="DATA", value=rest, expected="none", message=f"... and {rest} more")
    return [*faults[:_MOST_NAMED], *([more] if rest > 0 else [])]
