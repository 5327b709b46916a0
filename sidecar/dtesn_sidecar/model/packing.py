"""A batch of trees packed into steps: which rows each step computes, and how children are summed into parents.

All trees advance together, one level of each per step. The rows of a step are [chains | inner nodes | leaves]; chains
are sorted by what remains of them, so that the active ones are always a prefix and need no padding and no gather. In a batch of nothing
else a chain may take its turn in the row of another that has ended (`lanes`). Of
the other trees, inner nodes stand by falling number of children, so that every round of a child sum fills a prefix.
Everything is index arithmetic on the host, done once per admission; no state is touched here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.model.lanes import active, lanes
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import ROWS_PER_HASH, hashed_rows

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

RANK_ROUNDS = 4
"""Children summed one by one; more are halved first, so that a node of 4,000 children takes 14 rounds, not 4,000."""

_NODE_BITS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is left of one item: `uid` is unique within the run, `level` the next level to compute; whether it is `patient` and may wait."""

    uid: int
    tree: Tree
    level: int
    patient: bool = False

    @property
    def remaining(self) -> int:
        """Steps until its root is done."""
        return self.tree.levels - self.level


@dataclass(frozen=True, slots=True, eq=False)
class ChildSum:
    """How the rows of one step are summed for the inner nodes of the next.

    `halvings`: rounds (first, second): pair sums take(first) + take(second), `first` longer by the rows that have no partner.
    `ranks`: then the r-th child of each parent that has one, parents as a prefix.
    """

    halvings: tuple[tuple[Ints, Ints], ...]
    ranks: tuple[Ints, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """In `step` the next chain begins in this row of the chains; `ended` is the place among the uids of the one that ended before."""

    step: int
    row: int
    ended: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The steps of one set of items, `uids` in the order of the sums: chains, then trees, each by falling remainder.

    Of the chains that take turns in one row the last stands there, the others at the end; `turns` by step. Step s computes rows
    starts[s]..starts[s + 1]: chains[s] + inner[s] + leaves[s] of them, from trees[s] trees.
    `keys` names each row's node (uid and node index), `roots` the row of each item's root, `begins` and `ends` its first and last step.
    `owners` is the tree of each row (an index after the chains), `shares` 1 / m and `degrees` m of each inner row's m children.
    """

    uids: tuple[int, ...]
    chain_items: int
    turns: tuple[Turn, ...]
    starts: Ints
    chains: Ints
    inner: Ints
    leaves: Ints
    trees: Ints
    keys: NDArray[np.int64]
    roots: Ints
    begins: Ints
    ends: Ints
    owners: Ints
    degrees: Floats
    inner_starts: Ints
    tree_starts: Ints
    sums: tuple[ChildSum | None, ...]

    @property
    def steps(self) -> int:
        """Number of steps until the last item is done."""
        return len(self.chains)

    @property
    def has_trees(self) -> bool:
        """Whether any item is not a chain."""
        return bool(self.trees.any())

    def sums_of(self, step: int) -> tuple[int, ...]:
        """Whose sum is in each row of them before this step."""
        uids = list(self.uids[: len(self.uids) - len(self.turns)])
        for turn in reversed(self.turns):
            if turn.step > step:
                uids[turn.row] = self.uids[turn.ended]
        return tuple(uids)


def pack(parts: Sequence[Part], *, turns: bool = False) -> Plan:
    """The plan of these items from where each of them stands. With `turns` patient chains may wait, where there are chains alone."""
    chains = [p for p in parts if p.tree.is_chain]
    trees = sorted((p for p in parts if not p.tree.is_chain), key=lambda p: -p.remaining)
    patient = [turns and not trees and p.patient for p in chains]
    rows = [[chains[i] for i in lane] for lane in lanes([p.remaining for p in chains], patient)]
    lengths = [sum(p.remaining for p in row) for row in rows]
    steps = max([*lengths, *(p.remaining for p in trees)], default=0)
    chain_counts = active(lengths, steps)
    tree_counts = active([p.remaining for p in trees], steps)
    forest = _Forest.of(trees, steps)
    inner = np.bincount(forest.step[~forest.leaf], minlength=steps)
    leaves = np.bincount(forest.step[forest.leaf], minlength=steps)
    starts = _offsets(chain_counts + inner + leaves)
    keys = np.empty(int(starts[-1]), dtype=np.int64)
    ordered = [row[-1] for row in rows] + trees
    roots = np.empty(len(parts), dtype=np.intp)
    begins, found = np.zeros(len(parts), dtype=np.intp), []
    for slot, row in enumerate(rows):
        step = 0
        for part in row:
            place, at = slot, starts[step : step + part.remaining] + slot
            if part is not row[-1]:
                place = len(ordered)
                ordered.append(part)
                found.append(Turn(step + part.remaining, slot, place))
            keys[at] = (part.uid << _NODE_BITS) + np.arange(part.level, part.tree.nodes)
            roots[place], begins[place] = at[-1], step
            step += part.remaining
    tree_starts = _offsets(inner + leaves)
    tree_rows = np.arange(int(tree_starts[-1])) + np.repeat(starts[:-1] + chain_counts - tree_starts[:-1], inner + leaves)
    keys[tree_rows] = forest.key
    is_root = forest.parent < 0
    roots[len(rows) + forest.owner[is_root]] = tree_rows[is_root]
    return Plan(
        uids=tuple(p.uid for p in ordered),
        chain_items=len(rows),
        turns=tuple(sorted(found, key=lambda turn: turn.step)),
        starts=starts,
        chains=chain_counts,
        inner=inner,
        leaves=leaves,
        trees=tree_counts,
        keys=keys,
        roots=roots,
        begins=begins,
        ends=begins + np.array([p.remaining - 1 for p in ordered], dtype=np.intp),
        owners=forest.owner,
        degrees=forest.children[~forest.leaf].astype(np.float64),
        inner_starts=_offsets(inner),
        tree_starts=tree_starts,
        sums=_child_sums(forest, tree_starts, inner),
    )


def _offsets(counts: NDArray[Any]) -> Ints:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class _Forest:
    """The remaining nodes of all trees in the order of computation; `parent` is a place in this order (-1: a root)."""

    step: Ints
    leaf: NDArray[np.bool_]
    children: Ints
    owner: Ints
    parent: Ints
    key: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Part], steps: int) -> _Forest:
        if not parts:
            none = np.empty(0, dtype=np.intp)
            return cls(none, none.astype(bool), none, none, none, none.astype(np.int64))
        step, children, owner, parent, key = [], [], [], [], []
        base = 0
        for slot, part in enumerate(parts):
            tree = part.tree
            parents, level_sizes = tree.links
            first = int(level_sizes[: part.level].sum())
            count = tree.nodes - first
            step.append(np.repeat(np.arange(part.remaining), level_sizes[part.level :]))
            children.append(np.bincount(parents[:-1], minlength=tree.nodes)[first:])
            owner.append(np.full(count, slot))
            local = parents[first:].astype(np.intp) - first + base
            local[-1] = -1
            parent.append(local)
            key.append((part.uid << _NODE_BITS) + np.arange(first, tree.nodes))
            base += count
        all_steps, all_children, all_parents = np.concatenate(step), np.concatenate(children), np.concatenate(parent)
        order = np.lexsort((-all_children, all_steps))
        place = np.empty(base + 1, dtype=np.intp)
        place[order] = np.arange(base)
        place[-1] = -1
        return cls(
            all_steps[order],
            all_children[order] == 0,
            all_children[order],
            np.concatenate(owner)[order],
            place[all_parents[order]],
            np.concatenate(key)[order],
        )


def _child_sums(forest: _Forest, tree_starts: Ints, inner: Ints) -> tuple[ChildSum | None, ...]:
    """For each step the sum that feeds the next one (None: the next has no inner nodes)."""
    steps = len(inner)
    if not len(forest.step):
        return (None,) * steps
    nodes = np.flatnonzero(forest.parent >= 0)
    nodes = nodes[np.argsort(forest.parent[nodes], kind="stable")]
    parent = forest.parent[nodes]
    counts = np.bincount(parent, minlength=len(forest.step))
    rank = np.arange(len(nodes)) - np.repeat(np.cumsum(counts) - counts, counts)[: len(nodes)]
    step = forest.step[nodes]
    local = nodes - tree_starts[step]
    widest = np.zeros(steps + 1, dtype=np.intp)
    np.maximum.at(widest, step, rank + 1)
    by_step = _offsets(np.bincount(step, minlength=steps))
    order = np.lexsort((rank, step))
    ranked = local[order]
    ranks = rank[order]
    sums: list[ChildSum | None] = []
    for s in range(steps):
        span = slice(int(by_step[s]), int(by_step[s + 1]))
        if span.start == span.stop:
            sums.append(None)
        elif widest[s] > RANK_ROUNDS:
            below = int(tree_starts[s + 1])
            sums.append(_halved(local[span], counts[below : below + inner[s + 1]]))
        else:
            edges = span.start + np.searchsorted(ranks[span], np.arange(widest[s] + 1))
            sums.append(ChildSum((), tuple(ranked[a:b] for a, b in pairwise(edges.tolist()))))
    return tuple(sums)


def _halved(rows: Ints, counts: Ints) -> ChildSum:
    """Rows grouped by parent, counts[p] for parent p (falling): pairs are summed until no parent has more than RANK_ROUNDS."""
    halvings = []
    while counts[0] > RANK_ROUNDS:
        starts = np.cumsum(counts) - counts
        rank = np.arange(len(rows)) - np.repeat(starts, counts)
        size = np.repeat(counts, counts)
        first, second = (rank % 2 == 0) & (rank + 1 < size), rank % 2 == 1
        alone = (rank % 2 == 0) & (rank + 1 == size)
        halvings.append((np.concatenate((rows[first], rows[alone])), rows[second]))
        place = np.empty(len(rows), dtype=np.intp)
        place[first] = np.arange(int(first.sum()))
        place[alone] = int(first.sum()) + np.arange(int(alone.sum()))
        rows = place[rank % 2 == 0]
        counts = (counts + 1) // 2
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ChildSum(tuple(halvings), tuple(rows[rank == r] for r in range(int(counts[0]))))


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The inputs of layer 1 of all rows: sum_k factors[k] * W_1[rows[k]] + dense @ W_1[:d].

    rows intp [K, n]; factors [K, n] or None (all ones, K = 1); dense [n, d] or None.
    """

    rows: Ints | None
    factors: Floats | None
    dense: Floats | None


def pack_labels(parts: Sequence[Part], keys: NDArray[np.int64]) -> Labels:
    """The labels of the nodes named by `keys`, in that order; kinds and widths may differ from item to item."""
    terms = max((_terms(p.tree) for p in parts), default=0)
    width = max((p.tree.width for p in parts if p.tree.kind == "vector"), default=0)
    plain = all(p.tree.kind == "byte" for p in parts)
    rows = np.zeros((terms, len(keys)), dtype=np.intp)
    factors = np.zeros((0 if plain else terms, len(keys)))
    dense = np.zeros((len(keys), width))
    order, spans = _spans(parts, keys)
    for part, (start, stop) in zip(parts, spans, strict=True):
        at, tree = order[start:stop], part.tree
        labels = tree.labels[tree.nodes - len(at) :]
        if tree.kind == "vector":
            dense[at, : tree.width] = labels
        elif tree.kind == "hash":
            picked, signs = hashed_rows(labels)
            rows[: picked.shape[1], at] = picked.T
            factors[: picked.shape[1], at] = signs.T
        else:
            rows[0, at] = labels
            factors[:1, at] = 1.0
    return Labels(rows if terms else None, factors if len(factors) else None, dense if width else None)


def _terms(tree: Tree) -> int:
    return {"byte": 1, "vector": 0, "hash": ROWS_PER_HASH * tree.width}[tree.kind]


def _spans(parts: Sequence[Part], keys: NDArray[np.int64]) -> tuple[Ints, list[tuple[int, int]]]:
    """Rows sorted by (item, node), and the part of that order that is each item's."""
    order = np.argsort(keys, kind="stable").astype(np.intp)
    uids = keys[order] >> _NODE_BITS
    wanted = np.array([p.uid for p in parts], dtype=np.int64)
    starts, stops = np.searchsorted(uids, wanted), np.searchsorted(uids, wanted, side="right")
    return order, [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def held_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same, but -1 for the first node of an item: nothing is held for it, whatever the row held before."""
    return np.where(keys & ((1 << _NODE_BITS) - 1), keys, -1)


def find_rows(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> Ints:
    """Where each wanted key stands in `keys`; len(keys) for those that are not there."""
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), max(len(keys) - 1, 0))
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.intp)
    found = order[at]
    return np.where(keys[found] == wanted, found, len(keys)).astype(np.intp)


def step_rows_bound(nodes: int, levels: int) -> int:
    """The most rows that one item can have in one step."""
    return nodes - levels + 1
