"""How the tests are spread over processes: `pytest --numprocesses=auto`, as `make test` runs it. Without that option nothing here matters.

A file's tests stay together, so that what they share is made once. One process goes through the folders from the front, the others
from the back: the tests of a cluster, which wait much, run beside those that compute, and one process alone starts the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

TESTS = Path(__file__).parent
FOLDERS = ("cluster", "stress", "integration", "contract", "unit")  # from what waits most to what computes


class BothEnds(LoadFileScheduling):
    """Gives out files from both ends of their order."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> BothEnds:
    """Whatever --dist says."""
    config.option.loadscopereorder = False  # the order is that of the collection
    return BothEnds(config, log)


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


def _rank(item: pytest.Item) -> tuple[int, bool]:
    """By folder; of the cluster's tests first those that take longest, so that short ones are left for the end."""
    folder = item.path.relative_to(TESTS).parts[0]
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS), not item.path.name.startswith("test_operator_")
