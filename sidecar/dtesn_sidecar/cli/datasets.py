"""Data sets for `fit` and `evaluate`: CSV, JSON-lines, NPZ and `.ts` files, read whole, every bad row named with line and column.

An input becomes a `Tree` at once (`model.inputs` knows the formats); what the targets mean is decided here, what is done with them in
`model.readout.fitting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from pathlib import Path

import numpy as np

from dtesn_api.problems import Problem, SpecInvalid
from dtesn_sidecar.cli.dataset_files import FORMATS, READERS
from dtesn_sidecar.cli.dataset_rows import Columns, Rows, Task, as_number, is_missing, most, problem
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout.fitting import Targets, class_targets, number_targets
from dtesn_sidecar.model.readout.store import MAX_LABEL, MAX_OUTPUTS
from dtesn_sidecar.model.trees import Tree


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
        numbers = all(as_number(value) is not None or is_missing(value) for value in chain.from_iterable(self.targets))
        return self.declared or ("regression" if numbers else "classification")


def read_dataset(path: Path, columns: Columns, max_nodes: int) -> DataSet:
    """The data set in a file. Raises SpecInvalid with the bad rows, InvalidInput for what is wrong with the file as a whole, OSError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{path.name} is no data set that can be read: its name must end in {FORMATS}", field="DATA", expected=FORMATS)
    rows = Rows(path.name, columns, max_nodes)
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
        faults.append(problem(place, "missing" if is_missing(value) else repr(value)[:60], expected))

    if task == "regression":
        table = [[as_number(value) for value in row] for row in data.targets]
        for at, (row, numbers) in enumerate(zip(data.targets, table, strict=True)):
            wrong = [value for value, number in zip(row, numbers, strict=True) if number is None or not isfinite(number)]
            if wrong:
                fault(at, wrong[0], "a finite number")
            elif len(row) != len(data.targets[0]):
                fault(at, f"{len(row)} numbers", f"{len(data.targets[0])} numbers, as {data.where[0]} has")
        if faults:
            raise SpecInvalid(most(faults))
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
        raise SpecInvalid(most(faults))
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


def _label(row: Sequence[object]) -> str | None:
    if not row or is_missing(row[0]):
        return None
    value = row[0]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
