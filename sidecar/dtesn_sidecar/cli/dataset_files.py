"""The files that data sets come in: CSV, JSON-lines, NPZ and `.ts`, one reader each, which hands every row to `dataset_rows`."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from dtesn_sidecar.cli.dataset_rows import Rows, Task, as_number
from dtesn_sidecar.errors import InvalidInput

FORMATS: Final = ".csv, .tsv, .jsonl, .ndjson, .npz or .ts"
_UNREADABLE: Final = (ValueError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""Of NumPy and its archives. An array of Python objects is a ValueError: it would need pickle, which is never used."""
_JSON_FORMATS: Final = ("series", "tree", "json")


def _read_csv(path: Path, rows: Rows) -> None:
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


def _csv_row(rows: Rows, place: str, header: list[str], cells: list[str], inputs: list[int], targets: list[int]) -> None:
    if len(cells) != len(header):
        rows.fault(place, f"of {len(cells)} cells", f"of {len(header)} cells, as the header has")
        return
    told = tuple(cells[number].strip() for number in targets)
    if len(inputs) == 1 and (rows.columns.input is not None or as_number(cells[inputs[0]]) is None):
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
    values = [as_number(cells[number]) for number in inputs]
    for number, value in zip(inputs, values, strict=True):
        if value is None or not isfinite(value):
            shown = repr(cells[number][:40]) if cells[number].strip() else "empty"
            rows.fault(f"{place}, column {header[number]!r}", shown, "a finite number (only the end of a series may be empty)")
            return
    rows.add(place, values, told, form="series")


def _read_lines(path: Path, rows: Rows) -> None:
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


def _read_npz(path: Path, rows: Rows) -> None:
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


def _array_name(rows: Rows, names: Sequence[str], wanted: str, flag: str) -> str:
    if wanted not in names:
        raise InvalidInput(f"{rows.file} has no array {wanted!r}, only {', '.join(map(repr, names))}: name it with {flag}", field=flag)
    return wanted


def _read_ts(path: Path, rows: Rows) -> None:
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


def _ts_task(rows: Rows, head: dict[str, list[str]]) -> Task:
    if "data" not in head:
        raise InvalidInput(f"{rows.file} has no line @data", field="DATA", expected="a .ts file")
    if head.get("timestamps", ["false"])[:1] == ["true"]:
        raise InvalidInput(f"{rows.file} has time stamps, which are not read: @timeStamps must be false", field="DATA")
    for key, task in (("classlabel", "classification"), ("targetlabel", "regression")):
        if head.get(key, ["false"])[0].lower() == "true":
            return task  # type: ignore[return-value]
    raise InvalidInput(f"{rows.file} has neither @classLabel true nor @targetlabel true: there is nothing to predict", field="DATA")


def _ts_row(rows: Rows, place: str, parts: Sequence[str], target: str) -> None:
    channels: list[list[float]] = []
    for number, part in enumerate(parts, start=1):
        cells = part.split(",")
        values = [as_number(cell) for cell in cells]
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


READERS: Final[Mapping[str, Callable[[Path, Rows], None]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".npz": _read_npz,
    ".ts": _read_ts,
}
"""By the suffix of the file. Each raises InvalidInput for what is wrong with the file as a whole, and OSError."""
