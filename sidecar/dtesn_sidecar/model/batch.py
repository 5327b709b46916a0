"""The arithmetic of one packed batch: projections, recurrence and child sums, step by step, layer by layer.

Who is in the batch and for how long it computes is decided in `reservoir`; the order of rows in `packing`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.model.backend import Array
from dtesn_sidecar.model.packing import Part, Plan, Turn, find_rows, held_keys, pack, pack_labels
from dtesn_sidecar.model.stack import Buffers, Stack
from dtesn_sidecar.model.steps import SUM_ROWS, WIDE, Products, Stretches, alike, chains, euler, runge_kutta
from dtesn_sidecar.model.totals import SPAN_ROWS, SPAN_STEPS, spans

BLOCK_ROWS = 1024
"""Rows whose input projections are one product: of fewer the weights are packed too often, more are not in a cache when they are used."""

STEP_ROWS = 8
"""What one step costs beside its rows, in rows; only the ratio matters, the scale is measured."""


WIDE_FLOAT = np.dtype(np.float64)
"""Of the sums over all nodes of an item: in float32 the mean of a long chain drifts (2e-5 at 4,000 nodes)."""


Piece = tuple[int, int, Stretches]
"""Steps from the first up to the last, which no turn interrupts and whose sums are exact enough."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """A child sum on the device: see packing.ChildSum."""

    halvings: tuple[tuple[Array, Array, int, int], ...]
    ranks: tuple[tuple[Array, int], ...]


class Group:
    """Layers `first`..`last` - 1, the plan of the items that are that deep, and what these carry from slice to slice."""

    def __init__(
        self, stack: Stack, first: int, last: int, plan: Plan, index: dict[Hashable, Array], floats: dict[Hashable, Array]
    ) -> None:
        self.first, self.last, self.plan = first, last, plan
        self.starts, self.chains = plan.starts.tolist(), plan.chains.tolist()
        self.inner, self.trees = plan.inner.tolist(), plan.trees.tolist()
        self.tree_starts, self.inner_starts = plan.tree_starts.tolist(), plan.inner_starts.tolist()
        self.carry_rows = [c + i for c, i in zip(self.chains, self.inner, strict=True)]
        self.carry: list[Array] = [None] * (last - first)
        self.totals = [stack.zeros(len(plan.uids), WIDE_FLOAT) for _ in range(first, last)]
        self.sum_rows = len(plan.uids) - len(plan.turns)
        self.turns = {step: list(turns) for step, turns in groupby(plan.turns, key=lambda turn: turn.step)}
        by_end = np.argsort(plan.ends, kind="stable")
        self.ends, self.order = plan.ends[by_end], np.array(plan.uids, dtype=np.intp)[by_end]
        self.owners, self.compact = index[first, "owners"], index.get((first, "compact"), index[first, "roots"][:0])
        self.roots, self.slots = index[first, "roots"], index[first, "slots"]
        self.shares, self.gains = floats[first, "shares"], floats[first, "gains"]
        self.sums = [
            None
            if total is None
            else _Sum(
                tuple((index[first, s, h, 0], index[first, s, h, 1], len(a), len(b)) for h, (a, b) in enumerate(total.halvings)),
                tuple((index[first, s, "rank", r], len(rows)) for r, rows in enumerate(total.ranks)),
            )
            for s, total in enumerate(plan.sums)
        ]


def _indices(first: int, plan: Plan, below: Plan | None) -> dict[Hashable, NDArray[np.intp]]:
    by_end = np.argsort(plan.ends, kind="stable")
    found: dict[Hashable, NDArray[np.intp]] = {
        (first, "owners"): plan.owners,
        (first, "roots"): plan.roots[by_end],
        (first, "slots"): by_end,
    }
    if below is not None:
        found[first, "compact"] = find_rows(below.keys, plan.keys)
    for s, total in enumerate(plan.sums):
        if total is not None:
            for h, pair in enumerate(total.halvings):
                found[first, s, h, 0], found[first, s, h, 1] = pair
            for r, rows in enumerate(total.ranks):
                found[first, s, "rank", r] = rows
    return found


class Batch:
    """Items as packed after an admission, with their depths; `step` steps of it are done."""

    def __init__(self, stack: Stack, parts: Sequence[Part], depths: Sequence[int]) -> None:
        self._stack = stack
        self.step = 0
        plans: list[tuple[int, int, Plan]] = []
        indices: dict[Hashable, NDArray[np.intp]] = {}
        floats: dict[Hashable, NDArray[Any]] = {}
        first = 0
        turns = len(set(depths)) == 1 and stack.order == 1 and not stack.backend.calls_count  # a launch costs the same for any rows
        for last in sorted(set(depths)):
            plan = pack([part for part, depth in zip(parts, depths, strict=True) if depth > first], turns=turns)
            indices |= _indices(first, plan, plans[-1][2] if plans else None)
            floats[first, "shares"] = 1.0 / plan.degrees[:, None]
            floats[first, "gains"] = plan.degrees[:, None] ** (1.0 - stack.aggregation_exponent)
            plans.append((first, last, plan))
            first = last
        lowest = plans[0][2]
        self._nodes = {part.uid: part.tree.nodes for part in parts}
        self._begins: dict[int, int] = dict(zip(lowest.uids, lowest.begins.tolist(), strict=True))
        self._ends: dict[int, int] = dict(zip(lowest.uids, lowest.ends.tolist(), strict=True))
        labels = pack_labels(parts, lowest.keys)
        if labels.rows is not None:
            indices["rows"] = labels.rows
        if labels.factors is not None:
            floats["factors"] = labels.factors[:, :, None]
        if labels.dense is not None:
            floats["dense"] = labels.dense
        index = stack.backend.upload(indices)
        values = stack.backend.upload({name: array.astype(stack.dtype) for name, array in floats.items()})
        self._rows, self._factors, self._dense = index.get("rows"), values.get("factors"), values.get("dense")
        self.groups = [Group(stack, first, last, plan, index, values) for first, last, plan in plans]
        widths = np.diff(lowest.starts)
        self.step_rows = int(widths.max())
        self.block_rows = int(max(self.step_rows, min(BLOCK_ROWS, lowest.starts[-1])))
        self._costs = np.zeros(lowest.steps + 1)
        for group in self.groups:
            cost = group.plan.starts + STEP_ROWS * np.arange(group.plan.steps + 1)
            self._costs += (group.last - group.first) * np.pad(cost, (0, len(self._costs) - len(cost)), mode="edge")

    def cost(self, steps: int) -> float:
        """Predicted cost of the next steps, in a unit whose seconds are measured."""
        return float(self._costs[self.step + steps] - self._costs[self.step])

    def cost_until(self, uid: int) -> float:
        """Predicted cost until this item is done."""
        return self.cost(self._ends[uid] + 1 - self.step)

    def waits(self, uid: int) -> bool:
        """Whether this item has not begun."""
        return self._begins[uid] > self.step

    def levels(self, uid: int) -> int:
        """How many levels of this item have been computed here; 0 for one that is not in this batch."""
        return max(0, self.step - self._begins.get(uid, self.step))

    def nodes(self, steps: int) -> int:
        """Nodes of the next steps."""
        return int(self.groups[0].starts[self.step + steps] - self.groups[0].starts[self.step])

    def affordable(self, cost: float) -> int:
        """How many of the next steps fit into the block and into this cost; may be 0."""
        starts = self.groups[0].plan.starts
        fitting = np.searchsorted(starts, starts[self.step] + self.block_rows, side="right")
        paid = np.searchsorted(self._costs, self._costs[self.step] + cost, side="right")
        return int(min(fitting, paid)) - 1 - self.step

    def take_over(self, old: Batch) -> None:
        """Continue from where another packing of some of the same items stands."""
        stack = self._stack
        for group in self.groups:
            rows = group.carry_rows[0]
            for layer in range(group.first, group.last):
                source = next((g for g in old.groups if g.first <= layer < g.last), None)
                if source is None:
                    continue
                before, old_at, at = source.plan, layer - source.first, layer - group.first
                found = find_rows(np.array(before.sums_of(old.step)), np.array(group.plan.sums_of(0)))
                self._move(source.totals[old_at], source.sum_rows, found, group.totals[at][: group.sum_rows, ...], WIDE_FLOAT)
                held = source.carry[old_at]
                if held is None or old.step >= before.steps or not rows:
                    continue
                start, count = source.starts[old.step], source.carry_rows[old.step]
                found = find_rows(before.keys[start : start + count], held_keys(group.plan.keys[:rows]))
                group.carry[at] = stack.empty(max(group.carry_rows))
                self._move(held, count, found, group.carry[at][:rows, ...], stack.dtype)

    def _move(self, source: Array, count: int, found: NDArray[np.intp], out: Array, dtype: np.dtype[Any]) -> None:
        backend, padded = self._stack.backend, self._stack.zeros(count + 1, dtype)
        backend.copy(source[:count, ...], padded[:count, ...])
        backend.take(padded, backend.upload({"found": found})["found"], out)

    def advance(self, steps: int, buffers: Buffers) -> list[tuple[int, NDArray[Any]]]:
        """Compute the next steps of all layers. The items that end in them: (uid, features [depth, 2, N])."""
        start, stop = self.step, self.step + steps
        backend = self._stack.backend
        found: list[tuple[NDArray[np.intp], Array]] = []
        current, other = buffers.blocks
        for number, group in enumerate(self.groups):
            stop = min(stop, group.plan.steps)
            if start >= stop:
                break
            base, count = group.starts[start], group.starts[stop] - group.starts[start]
            if number:
                below = self.groups[number - 1].starts[start]
                backend.take(current, group.compact[base : base + count] - below, other[:count, ...])
                current, other = other, current
            pieces = self._pieces(group, start, stop)
            done = slice(*np.searchsorted(group.ends, (start, stop)).tolist())
            for layer in range(group.first, group.last):
                block = other[:count, ...]
                self._project(layer, current[:count, ...], block, base)
                self._recur(group, layer, stop, block, buffers, pieces)
                if done.start < done.stop:
                    pair = backend.empty((2, done.stop - done.start, self._stack.esn_size), self._stack.dtype)
                    backend.take(block, group.roots[done] - base, pair[0, ...])
                    sums = backend.empty((done.stop - done.start, self._stack.esn_size), WIDE_FLOAT)
                    backend.take(group.totals[layer - group.first], group.slots[done], sums)
                    backend.narrow(sums, pair[1, ...])
                    found.append((group.order[done], pair))
                current, other = other, current
        self.step += steps
        return self._features(found) if found else []

    def _features(self, found: list[tuple[NDArray[np.intp], Array]]) -> list[tuple[int, NDArray[Any]]]:
        """One download for all that end, cut by item: the rows of each are in the order of layers."""
        joined = self._stack.backend.gather_all([pair for _, pair in found])
        uids = np.concatenate([order for order, _ in found])
        joined[1] /= np.array([self._nodes[uid] for uid in uids.tolist()])[:, None]
        rows: dict[int, list[int]] = {}
        for row, uid in enumerate(uids.tolist()):
            rows.setdefault(uid, []).append(row)
        return [(uid, np.ascontiguousarray(joined[:, mine].swapaxes(0, 1), dtype=self._stack.features_dtype)) for uid, mine in rows.items()]

    def _project(self, layer: int, below: Array, block: Array, base: int) -> None:
        """block = W i; `below` is scratch in layer 1."""
        table = self._stack.layers[layer].input
        if layer:
            self._stack.backend.product(below, table, block)
        else:
            self._project_labels(table, below, block, base)

    def _project_labels(self, table: Array, scratch: Array, block: Array, base: int) -> None:
        backend, stop = self._stack.backend, base + block.shape[0]
        if self._dense is not None:
            backend.product(self._dense[base:stop, ...], table[: self._dense.shape[1], ...], block)
        if self._rows is None:
            return
        for k in range(self._rows.shape[0]):
            into = scratch if k or self._dense is not None else block
            backend.take(table, self._rows[k, base:stop], into)
            if self._factors is not None:
                backend.multiply(into, self._factors[k, base:stop, ...], into)
            if into is scratch:
                backend.add(block, scratch, block)

    def _pieces(self, group: Group, start: int, stop: int) -> list[Piece]:
        """What each layer does with these steps where there are chains alone; nothing otherwise."""
        if group.plan.has_trees or self._stack.order > 1:
            return []
        together = None if self._stack.backend.calls_count else SUM_ROWS
        return [(first, last, alike(group.chains[first:last], together)) for first, last in spans(start, stop, SPAN_STEPS, group.turns)]

    def _recur(self, group: Group, layer: int, stop: int, block: Array, buffers: Buffers, pieces: Sequence[Piece]) -> None:
        """Turn the projections in `block` into states, step by step."""
        stack, weights, at = self._stack, self._stack.layers[layer], layer - group.first
        biased = stack.backend.calls_count or block.shape[0] < WIDE * (stop - self.step)
        if biased:
            stack.backend.add(block, weights.bias, block)
        held, totals = group.carry[at], group.totals[at]
        part = buffers.part[: group.sum_rows, ...]
        stack.backend.copy(0.0, part)
        if pieces:
            base = group.starts[self.step]
            products: Products = {}
            for first, last, stretches in pieces:
                if first in group.turns:
                    held = self._begin(group.turns[first], held[: group.chains[first], ...], buffers)
                rows, count = block[group.starts[first] - base : group.starts[last] - base, ...], group.chains[first]
                sums = totals if stack.backend.calls_count else part  # more bytes, but fewer calls
                held = chains(stack, weights, stretches, rows, held, sums, buffers, products, biased=biased)
                if sums is part:
                    self._flush(part[:count, ...], totals[:count, ...])
                for turn in group.turns.get(last, ()):
                    stack.backend.copy(totals[turn.row : turn.row + 1, ...], totals[turn.ended : turn.ended + 1, ...])
                    stack.backend.copy(0.0, totals[turn.row : turn.row + 1, ...])
        else:
            held = self._recur_trees(group, layer, stop, block, buffers, part, biased=biased)
            self._flush(part, totals)
        if stop < group.plan.steps and (count := group.carry_rows[stop]):
            if group.carry[at] is None:
                group.carry[at] = stack.empty(max(group.carry_rows))
            stack.backend.copy(held[:count, ...], group.carry[at][:count, ...])

    def _begin(self, turns: Sequence[Turn], held: Array, buffers: Buffers) -> Array:
        """What is held, but nothing in the rows in which a chain begins."""
        carried = buffers.carried[: held.shape[0], ...]
        self._stack.backend.copy(held, carried)
        for turn in turns:
            self._stack.backend.copy(0.0, carried[turn.row : turn.row + 1, ...])
        return carried

    def _flush(self, part: Array, totals: Array) -> None:
        """Add what the last steps summed up to the totals, and start anew."""
        self._stack.backend.add(totals, part, totals)
        self._stack.backend.copy(0.0, part)

    def _recur_trees(self, group: Group, layer: int, stop: int, block: Array, buffers: Buffers, part: Array, *, biased: bool) -> Array:
        """As `chains`, for any rows and any order; returns what the next step recurs on."""
        stack, backend, weights = self._stack, self._stack.backend, self._stack.layers[layer]
        held, totals, base = group.carry[layer - group.first], group.totals[layer - group.first], group.starts[self.step]
        update = euler if stack.order == 1 else runge_kutta
        for step in range(self.step, stop):
            rows, count = block[group.starts[step] - base : group.starts[step + 1] - base, ...], group.chains[step]

            def gain(product: Array, step: int = step) -> None:
                self._gain(group, step, product)

            update(stack, weights, rows, held, group.carry_rows[step], gain, buffers, biased=biased)
            if count:
                backend.add(part[:count, ...], rows[:count, ...], part[:count, ...])
            if trees := group.trees[step]:
                owners = group.owners[group.tree_starts[step] : group.tree_starts[step + 1]]
                mine = slice(group.plan.chain_items, group.plan.chain_items + trees)
                into, wide = part[mine, ...], totals[mine, ...]
                for first, last in spans(0, rows.shape[0] - count, SPAN_ROWS):
                    few = rows[count + first : count + last, ...]
                    backend.add(into, backend.sum_by_owner(few, owners[first:last], trees), into)
                    self._flush(into, wide)
            if (step + 1 - self.step) % SPAN_STEPS == 0:
                self._flush(part, totals)
            if step + 1 < group.plan.steps:
                held = self._carry(group, step, rows, buffers)
        return held

    def _carry(self, group: Group, step: int, rows: Array, buffers: Buffers) -> Array:
        """The mean state of the children, for each recurrent row of the next step: for chains the rows themselves."""
        total, chains, inner = group.sums[step], group.chains[step + 1], group.inner[step + 1]
        if total is None:
            return rows
        backend, carried, scratch = self._stack.backend, buffers.carried, buffers.product
        if chains:
            backend.copy(rows[:chains, ...], carried[:chains, ...])
        source = rows[group.chains[step] :, ...]
        into, spare = buffers.pairs
        for first, second, count, pairs in total.halvings:
            backend.take(source, first, into[:count, ...])
            backend.take(source, second, scratch[:pairs, ...])
            backend.add(into[:pairs, ...], scratch[:pairs, ...], into[:pairs, ...])
            source, into, spare = into, spare, into
        means = carried[chains : chains + inner, ...]
        backend.take(source, total.ranks[0][0], means)
        for index, count in total.ranks[1:]:
            backend.take(source, index, scratch[:count, ...])
            backend.add(means[:count, ...], scratch[:count, ...], means[:count, ...])
        at = group.inner_starts[step + 1]
        backend.multiply(means, group.shares[at : at + inner, ...], means)
        return carried

    def _gain(self, group: Group, step: int, product: Array) -> None:
        """Children are summed, not averaged: m^(1 - gamma) times the product of their mean."""
        if (inner := group.inner[step]) and self._stack.aggregation_exponent != 1.0:
            chains, at = group.chains[step], group.inner_starts[step]
            rows = product[chains : chains + inner, ...]
            self._stack.backend.multiply(rows, group.gains[at : at + inner, ...], rows)
