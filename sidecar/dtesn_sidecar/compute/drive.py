"""Driving one run from its first slice to its last: the loop that worker processes and threads share.

Where the items come from and where the results go is the callers' business. Nothing here waits: the mailbox is
looked into between two slices, and a slice never waits for an event loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from dtesn_sidecar.compute.messages import Report
from dtesn_sidecar.errors import ComputeFailed, DeadlineExceeded
from dtesn_sidecar.model import weights
from dtesn_sidecar.model.reservoir import Reservoir, ReservoirRun, RunItem

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_api.wire import Output
    from dtesn_sidecar.model.backend import Backend
    from dtesn_sidecar.model.readout.value import OutputLayer
    from dtesn_sidecar.model.trees import Tree
    from dtesn_sidecar.model.weights import LayerWeights

SLICE_SECONDS: Final = 0.02
HOPE: Final = 0.8
"""Share of its predicted rest that an item may need: predictions err, and what is nearly done had better end."""

Array = npt.NDArray[np.float32]
Finished = Sequence[tuple[int, "Array | Exception"]]


@dataclass(frozen=True, slots=True)
class Task:
    """One member of a run as the loop sees it. Its result is of use for `seconds` from the start (None: always)."""

    id: int
    tree: Tree
    depth: int
    output: Output
    seconds: float | None = None


class Reservoirs:
    """The reservoirs of one worker by size, opened from the files that all workers map.

    A deeper model of the same size keeps the layers already open and adds to them.
    """

    def __init__(self, model: ModelConfiguration, backend: Backend) -> None:
        self._model = model
        self._backend = backend
        self._layers: dict[int, list[LayerWeights]] = {}
        self._open: dict[int, Reservoir] = {}

    def get(self, esn_size: int, layers: int, folder: Path) -> Reservoir:
        """The reservoir of this size with at least that many layers. Raises OSError where a file is missing."""
        reservoir = self._open.get(esn_size)
        opened = self._layers.setdefault(esn_size, [])
        if reservoir is None or len(opened) < layers:
            opened.extend(weights.open_layer(folder, layer) for layer in range(len(opened) + 1, layers + 1))
            reservoir = self._open[esn_size] = Reservoir(opened, self._model, self._backend)
        return reservoir

    def forget(self, esn_size: int) -> None:
        """Let go of the weights of this size."""
        self._open.pop(esn_size, None)
        self._layers.pop(esn_size, None)


def drive(
    reservoir: Reservoir,
    tasks: Sequence[Task],
    dropped: Callable[[], Collection[int]],
    emit: Callable[[Finished], None],
    peak_bytes: Callable[[], int],
    clock: Callable[[], float] = time.perf_counter,
    *,
    readout: OutputLayer | None = None,
    cpu_clock: Callable[[], float] | None = None,
) -> tuple[Finished, Report]:
    """Compute the tasks slice by slice; returns the results of the last slice and the report.

    `readout` makes the values of tasks whose output it is. `dropped` gives the ids that left since the last look (it may
    raise to abandon the run), `emit` takes what a slice finished before the last one. A task's own failure is its result;
    any exception raised is the run's. A task that can no longer end within its `seconds`, as predicted between two slices,
    is left out: DeadlineExceeded; where one might for want of a row of its own, all get one. `cpu_clock` counts the CPU seconds of
    whoever computes (None: they are not reported).
    """
    cpu_began = cpu_clock() if cpu_clock is not None else 0.0
    began = clock()
    by_id: Mapping[int, Task] = {task.id: task for task in tasks}
    waiting = set(by_id)
    bounds = {task.id: began + task.seconds for task in tasks if task.seconds is not None}
    run = reservoir.start(clock)
    run.admit([RunItem(task.id, task.tree, task.depth) for task in tasks])
    slices = gone = 0
    last: Finished = ()
    while run.active:
        if last:
            emit(last)
        if left := waiting.intersection(dropped()):
            run.drop(left)
            waiting -= left
            gone += sum(by_id[identity].tree.nodes for identity in left)
        if bounds and (held := run.waiting()) and _pressed(run, held, bounds, clock()):
            run.hurry()
        late: list[tuple[int, Array | Exception]] = []
        if slices and (left := _late(run, waiting, bounds, clock())):
            run.drop(left)
            waiting -= left
            gone += sum(by_id[identity].tree.nodes for identity in left)
            late = [(identity, DeadlineExceeded("the deadline can no longer be met")) for identity in left]
        last = late + [(result.id, _wanted(by_id[result.id], result.features, readout)) for result in run.advance(SLICE_SECONDS)]
        waiting.difference_update(identity for identity, _ in last)
        slices += 1
    seconds = clock() - began
    cpu_seconds = cpu_clock() - cpu_began if cpu_clock is not None else None
    report = Report(
        seconds=seconds,
        nodes=run.nodes_done,
        levels=run.levels_done,
        slices=slices,
        complete=not gone,
        nodes_dropped=gone,
        peak_bytes=peak_bytes(),
        cpu_seconds=cpu_seconds,
    )
    return last, report


def _late(run: ReservoirRun, waiting: Collection[int], bounds: Mapping[int, float], now: float) -> set[int]:
    """Those whose time has passed, or would pass before they end even at the best speed."""
    if not bounds:
        return set()
    left = run.seconds_left()
    return {identity for identity in waiting if now + HOPE * left.get(identity, 0.0) > bounds.get(identity, math.inf)}


def _pressed(run: ReservoirRun, held: Collection[int], bounds: Mapping[int, float], now: float) -> bool:
    """Whether the time of one of these may pass before it ends."""
    left = run.seconds_left()
    return any(now + left.get(identity, 0.0) / HOPE > bounds.get(identity, math.inf) for identity in held)


def summarise(features: Array) -> Array:
    """Norm and mean of every state: float32 `[depth, 2, N]` to `[depth, 2, 2]`."""
    summary = np.empty((*features.shape[:-1], 2), dtype=features.dtype)
    np.sqrt(np.einsum("...n,...n->...", features, features), out=summary[..., 0])
    np.mean(features, axis=-1, out=summary[..., 1])
    return summary


def _wanted(task: Task, value: Array | Exception, readout: OutputLayer | None) -> Array | Exception:
    if isinstance(value, Exception) or task.output == "features":
        return value
    if task.output == "summary":
        return summarise(value)
    if readout is None or value.shape != (readout.depth, 2, readout.esn_size):
        return ComputeFailed("there is no readout for this depth and size")  # requests are checked: only a defect comes here
    return readout.apply(value)
