"""The samples of a data set as they are read: each row a tree with its targets, or a fault that names its place. Nothing of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from dtesn_api.problems import Problem
from dtesn_sidecar.errors import DTESNError, InvalidInput
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.trees import Tree

Task = Literal["classification", "regression"]
_MOST_NAMED: Final = 16


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns, keys or arrays hold the targets (none: those of the usual names) and the input, and the input's format."""

    targets: tuple[str, ...] = ()
    input: str | None = None
    input_format: str = "auto"


@dataclass(slots=True)
class Rows:
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
        """One row that cannot be used."""
        self.faults.append(problem(f"{self.file} {place}", value, expected))

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
        """The faults, as many as are worth reading."""
        return most(self.faults)

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


def as_number(value: object) -> float | None:
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


def is_missing(value: object) -> bool:
    """Whether a cell says nothing."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)


def problem(where: str, value: str, expected: str) -> Problem:
    """What is wrong at a place, in a sentence."""
    return Problem(field=where, value=value, expected=expected, message=f"{where} is {value}, expected {expected}")


def most(faults: Sequence[Problem]) -> list[Problem]:
    """The first few, and how many more there are."""
    rest = len(faults) - _MOST_NAMED
    more = Problem(field="DATA", value=rest, expected="none", message=f"... and {rest} more")
    return [*faults[:_MOST_NAMED], *([more] if rest > 0 else [])]
