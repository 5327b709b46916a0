"""The resumable run: a stack of layers computed bottom-up over a batch of trees, in slices of a few levels.

The arithmetic is in `batch`, the order of rows in `packing`, where it runs in `backend`, the weights in `weights`.
Nothing here knows of requests, queues or processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.errors import ComputeFailed, DTESNError
from dtesn_sidecar.model.backend import Backend, NumPyBackend
from dtesn_sidecar.model.batch import BLOCK_ROWS, Batch
from dtesn_sidecar.model.packing import Part
from dtesn_sidecar.model.stack import Buffers, Layer, Stack
from dtesn_sidecar.model.trees import LABEL_LIMIT, LABEL_ROWS, Tree
from dtesn_sidecar.model.weights import LayerWeights

_BEST_FADES = 1.02
"""By how much the best speed is doubted with every measurement that does not reach it."""

_BEST_OF = 8
"""Measurements before the best of them counts as a speed: the first may all be slow (cold caches, weights not yet in memory,
a machine that stalls), and what is condemned by one of them would have had ample time."""

_SMOOTHING = 0.3
"""Share of the newest slice in the measured speed."""


@dataclass(frozen=True, slots=True, eq=False)
class RunItem:
    """One item of a run: `id` is the caller's name for it, `depth` the layers to compute."""

    id: int
    tree: Tree
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """What became of one item: `features` is float32 [depth, 2, N] (root state, mean state of all nodes) or the error."""

    id: int
    features: NDArray[Any] | DTESNError


class Reservoir:
    """The layers of one model on one backend; runs of it share the weights and the measured speed.

    Features come as float32, whatever the computation's type; `features_dtype` keeps more of a float64 model.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        config: ModelConfiguration,
        backend: Backend | None = None,
        *,
        features_dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.backend = backend or NumPyBackend()
        place = self.backend.place_matrix
        self.stack = Stack(
            backend=self.backend,
            layers=tuple(Layer(place(w.input), place(w.recurrent), place(w.bias)) for w in layers),
            esn_size=int(layers[0].bias.shape[0]),
            dtype=layers[0].bias.dtype,
            leak_rate=config.leak_rate,
            aggregation_exponent=config.aggregation_exponent,
            order=config.order,
            features_dtype=np.dtype(features_dtype),
        )
        self.seconds_per_cost: float | None = None
        self.best_seconds_per_cost: float | None = None
        self.measurements = 0

    @property
    def depth(self) -> int:
        """Number of layers held."""
        return len(self.stack.layers)

    @property
    def esn_size(self) -> int:
        """Units per layer."""
        return self.stack.esn_size

    def start(self, clock: Callable[[], float] = time.perf_counter) -> ReservoirRun:
        """A new, empty run."""
        return ReservoirRun(self, clock)


@dataclass(slots=True, eq=False)
class _Item:
    id: int
    tree: Tree
    depth: int
    level: int = 0  # when it was packed last


class ReservoirRun:
    """A batch under way. Items join by `admit` and leave by `drop` between slices; `advance` computes a slice.

    Each item stands at its own level; all levels share the weights. A few short ones wait for the row of another where a batch ends earlier
    so (`lanes`), until the next admission or drop at most, or until `hurry`. For one thread at a time.
    """

    def __init__(self, reservoir: Reservoir, clock: Callable[[], float]) -> None:
        self._reservoir = reservoir
        self._clock = clock
        self._items: dict[int, _Item] = {}
        self._refused: list[RunResult] = []
        self._uids = self._packed_uids = 0  # of those packed once: who has waited then does not wait again
        self._batch: Batch | None = None
        self._stale = True
        self._buffers = Buffers(reservoir.stack)
        self.nodes_done = 0
        self.levels_done = 0

    @property
    def active(self) -> int:
        """Items whose result has not been returned, and that were not dropped."""
        return len(self._items) + len(self._refused)

    def admit(self, items: Sequence[RunItem]) -> None:
        """Let these join from the next slice on. An item that cannot be computed fails alone, in the next `advance`."""
        for item in items:
            error = self._refusal(item)
            if error is not None:
                self._refused.append(RunResult(item.id, error))
                continue
            self._items[self._uids] = _Item(item.id, item.tree, item.depth)
            self._uids += 1
            self._stale = True

    def drop(self, ids: Collection[int]) -> None:
        """Forget these; ids that are not in the run are ignored."""
        wanted = set(ids)
        self._refused = [result for result in self._refused if result.id not in wanted]
        kept = {uid: item for uid, item in self._items.items() if item.id not in wanted}
        self._stale = self._stale or len(kept) < len(self._items)
        self._items = kept

    def waiting(self) -> list[int]:
        """The ids of those that wait for the row of another."""
        return [item.id for uid, item in self._items.items() if self._packed().waits(uid)]

    def hurry(self) -> None:
        """Let all of them begin with the next slice."""
        self._stale, self._packed_uids = True, self._uids

    def seconds_left(self) -> dict[int, float]:
        """Seconds until each active item ends at the best, by its id, if none leaves; empty until a speed is known well enough.

        At the best speed of late and not at the mean: one slice that the machine interrupted must condemn nobody.
        """
        speed = self._reservoir.best_seconds_per_cost
        if speed is None or self._reservoir.measurements < _BEST_OF or not self._items:
            return {}
        batch = self._packed()
        return {item.id: speed * batch.cost_until(uid) for uid, item in self._items.items()}

    def advance(self, budget_s: float = 0.02) -> list[RunResult]:
        """Compute as many levels of every item under way as the predicted time allows, at least one; the items that finished."""
        results, self._refused = self._refused, []
        start = now = self._clock()
        first = True
        while self._items:
            batch = self._packed()
            speed = self._reservoir.seconds_per_cost
            steps = 0 if speed is None else batch.affordable((budget_s - (now - start)) / speed)
            if steps < 1 and not first:
                break
            steps, first = max(steps, 1), False
            cost = batch.cost(steps)
            self.nodes_done += batch.nodes(steps)
            self.levels_done += steps
            finished = batch.advance(steps, self._buffers)
            results += [self._result(uid, features) for uid, features in finished]
            before, now = now, self._clock()
            self._measured(now - before, cost)
        return results

    def _measured(self, seconds: float, cost: float) -> None:
        if seconds > 0:
            known = self._reservoir.seconds_per_cost
            found = seconds / cost
            self._reservoir.seconds_per_cost = found if known is None else known + _SMOOTHING * (found - known)
            best = self._reservoir.best_seconds_per_cost
            self._reservoir.measurements += 1
            self._reservoir.best_seconds_per_cost = found if best is None else min(found, best * _BEST_FADES)

    def _refusal(self, item: RunItem) -> DTESNError | None:
        tree = item.tree
        if not 1 <= item.depth <= self._reservoir.depth:
            return ComputeFailed(f"membrane_depth is {item.depth}, this model holds 1..{self._reservoir.depth}")
        if not tree.nodes or (tree.kind == "vector" and tree.width > LABEL_ROWS):
            return ComputeFailed(f"the tree has {tree.nodes} nodes with labels of width {tree.width}")
        if tree.kind == "vector" and not bool((np.abs(tree.labels) <= LABEL_LIMIT).all()):
            return ComputeFailed("a label is not finite")
        return None

    def _result(self, uid: int, features: NDArray[Any]) -> RunResult:
        item = self._items.pop(uid)
        if not np.isfinite(features).all():
            return RunResult(item.id, ComputeFailed("the states of this item are not finite"))
        return RunResult(item.id, features)

    def _packed(self) -> Batch:
        if self._batch is not None and not self._stale:
            return self._batch
        before, new = self._batch, self._packed_uids
        levels = {uid: item.level + (before.levels(uid) if before is not None else 0) for uid, item in self._items.items()}
        parts = [Part(uid, item.tree, levels[uid], patient=uid >= new) for uid, item in self._items.items()]
        batch = Batch(self._reservoir.stack, parts, [item.depth for item in self._items.values()])
        self._buffers.fit(batch.block_rows, batch.step_rows)
        if before is not None:
            batch.take_over(before)
        for uid, item in self._items.items():
            item.level = levels[uid]
        self._batch, self._stale, self._packed_uids = batch, False, self._uids
        return batch


def run_bytes(works: Sequence[tuple[int, int]], esn_size: int, depth: int, itemsize: int = 4, order: int = 1) -> int:
    """Bytes that a run over items of (nodes, levels) takes at most beside the weights: the formula that sizes the buffers.

    Rows of a step: nodes - levels + 1 per item (1 for a chain); rows of a block: BLOCK_ROWS, or one step where that is wider.
    What is carried between slices counts twice, since an admission moves it.
    """
    nodes = sum(n for n, _ in works)
    step = sum(n - levels + 1 for n, levels in works)
    block = max(step, min(BLOCK_ROWS, nodes))
    stages = order + 1 if order > 1 else 0
    totals = 2 * len(works) * (8 // itemsize)  # in float64
    rows = 2 * block + (5 + stages) * step + 2 * depth * step + depth * totals
    features = 6 * depth * len(works)  # gathered, joined, handed out: [depth, 2, N] each
    # Of the plan: labels as row numbers with factors (8 of each where hashed), keys and index arrays.
    per_node = 400 if any(levels < n for n, levels in works) else 100
    return (rows + features) * esn_size * itemsize + nodes * per_node
