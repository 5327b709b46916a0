"""Children that are started ahead of time: taken by who wants one of their kind, and ended where nobody did."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dtesn_sidecar.cli.serve import _children
from dtesn_sidecar.compute import process
from dtesn_sidecar.compute.process import BUILDER_NICE, COMMAND, WORKER_NICE, Spares, Started


@pytest.fixture
def spares() -> Iterator[Spares]:
    made = Spares()
    yield made
    made.discard()


def end(started: Started) -> int:
    os.close(started.to)
    os.close(started.from_)
    return started.process.wait()


def test_one_is_taken_once_and_by_its_niceness(spares: Spares) -> None:
    spares.prepare([BUILDER_NICE, WORKER_NICE])
    assert spares.take(("another", "command"), WORKER_NICE) is None
    taken = spares.take(COMMAND, WORKER_NICE)
    assert taken is not None
    assert taken.process.args[-1] == str(WORKER_NICE)
    assert spares.take(COMMAND, WORKER_NICE) is None
    assert end(taken) == 0  # a closed pipe is the end of its parent, and no failure
    builder = spares.take(COMMAND, BUILDER_NICE)
    assert builder is not None
    assert end(builder) == 0


def test_those_that_nobody_took_are_ended(spares: Spares) -> None:
    spares.prepare([WORKER_NICE, WORKER_NICE])
    waiting = [started.process for _, started in spares._waiting]
    spares.discard()
    assert [process.returncode for process in waiting] == [-9, -9]
    assert spares.take(COMMAND, WORKER_NICE) is None


def test_a_start_wants_the_builder_and_a_worker_per_cpu_and_no_worker_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtesn_sidecar.cgroup.whole_cpus", lambda: 3)
    assert _children("numpy") == [BUILDER_NICE, WORKER_NICE, WORKER_NICE, WORKER_NICE]
    assert _children("cupy") == [BUILDER_NICE]
    monkeypatch.setattr("dtesn_sidecar.cli.serve.find_spec", lambda name: name == "cupy")
    assert _children("auto") == [BUILDER_NICE]


def test_a_child_that_cannot_be_started_leaves_no_pipe_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no/such/program"):
        process.start(("/no/such/program",), WORKER_NICE)
    assert set(os.listdir("/proc/self/fd")) == before
