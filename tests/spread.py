"""How the tests are spread over processes: `pytest --numprocesses=auto`, as `make test` runs it. Without that option nothing here matters.

A file's tests stay together, so that what they share is made once. One process begins with the tests that share a cluster, another with
those that have clusters of their own, and the rest with all others: what waits much runs beside what computes, one process alone starts
the shared cluster, and short files are left for the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

TESTS = Path(__file__).parent
FOLDERS = ("cluster", "stress", "integration", "contract", "unit")  # from what waits most to what computes
# Of the cluster's tests those that do not use the one that is shared, the longest first.
OWN = ("test_chart_releases", "test_operator_replicas", "test_operator_faults", "test_autoscaling", "test_chart_rbac", "test_chart_values")
# What the first process takes first, what the second, and what the rest.
TURNS = (("shared", "own", "other"), ("own", "other", "shared"), ("other", "own", "shared"))


def kind(file: str) -> str:
    """Whether the tests of a file share the cluster, have their own, or have other things to do."""
    folder, name = Path(file).parts[-2:]
    if folder != "cluster":
        return "other"
    return "own" if name.startswith(OWN) else "shared"


def chosen(files: Iterable[str], process: int) -> str:
    """The file that a process takes next: the first of the kind whose turn it is."""
    turn = TURNS[min(process, len(TURNS) - 1)]
    return min(files, key=lambda file: turn.index(kind(file)))


class InTurns(LoadFileScheduling):
    """Gives out files as `chosen` says."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(chosen(self.workqueue, self.nodes.index(node)), last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> InTurns:
    """Whatever --dist says."""
    config.option.loadscopereorder = False  # the order is that of the collection
    return InTurns(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than this process may use processors, since a third of all time is waiting; four at most.

    None in a cluster that was given, where the operators of several processes would meet.
    """
    return 0 if config.getoption("--kubeconfig") else min(len(os.sched_getaffinity(0)) + 1, 4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order of the files, the same in every process."""
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[None]:
    """A report travels between processes as UTF-8; what tests wrote need not be that."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return value


def _rank(item: pytest.Item) -> tuple[int, int]:
    """By folder; of the cluster's tests first those that take longest."""
    folder, name = item.path.relative_to(TESTS).parts[0], item.path.name
    longest = (*OWN, "test_operator_")
    return (
        FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS),
        next((place for place, one in enumerate(longest) if name.startswith(one)), len(longest)),
    )
