"""The tree of one request: flat arrays, cheap to send to another process.

Parsing lives in `inputs`; the packing of many trees into one batch lives in `packing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.errors import InvalidInput

Buffer: TypeAlias = bytes | bytearray | memoryview
Header: TypeAlias = tuple[str, int, int, int]
LabelKind = Literal["byte", "vector", "hash"]

LABEL_ROWS = 1024
"""Rows of W_1: a byte picks one, a vector of width d takes the first d, a hashed label combines some."""

LABEL_LIMIT = 1e30
"""Largest magnitude of a number in a label: beyond it a float32 projection could overflow."""

_DTYPES: dict[str, np.dtype[Any]] = {"byte": np.dtype(np.uint8), "vector": np.dtype(np.float64), "hash": np.dtype(np.uint64)}


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One rooted tree, its nodes level by level: the deepest level first, the root last.

    `kind` says what `labels` holds: "byte" uint8 [n]; "vector" float64 [n, d]; "hash" uint64 [n, c], c hashed
    parts per node. A chain has `parents` None: node i is the child of node i + 1. Otherwise `parents` is int32
    [n] (the root's is -1) and `level_sizes` int32 [levels]; a parent is always in the next level.
    """

    kind: LabelKind
    labels: NDArray[Any]
    parents: NDArray[np.int32] | None = None
    level_sizes: NDArray[np.int32] | None = None

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.labels)

    @property
    def levels(self) -> int:
        """Number of sequential steps: height + 1."""
        return len(self.labels) if self.level_sizes is None else len(self.level_sizes)

    @property
    def height(self) -> int:
        """Edges on the longest path from the root to a leaf; 0 for a single node."""
        return self.levels - 1

    @property
    def is_chain(self) -> bool:
        """Whether every node has at most one child."""
        return self.parents is None

    @property
    def links(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Parents and level sizes, of a chain too."""
        if self.parents is not None and self.level_sizes is not None:
            return self.parents, self.level_sizes
        above = np.arange(1, self.nodes + 1, dtype=np.int32)
        above[-1] = -1
        return above, np.ones(self.nodes, dtype=np.int32)

    @property
    def width(self) -> int:
        """Channels of a vector label, or hashed parts of a node; 1 for bytes."""
        return 1 if self.labels.ndim == 1 else self.labels.shape[1]

    @property
    def degree(self) -> int:
        """Largest number of children of a node (0 for a single node)."""
        if self.parents is None:
            return min(1, self.nodes - 1)
        return int(np.max(np.bincount(self.parents[:-1], minlength=1)))

    def pack(self) -> tuple[Header, list[Buffer]]:
        """A small header and the arrays as buffers (views, not copies), for a pipe."""
        buffers: list[Buffer] = [_view(self.labels)]
        if self.parents is not None and self.level_sizes is not None:
            buffers += [_view(self.parents), _view(self.level_sizes)]
        return (self.kind, self.nodes, 0 if self.labels.ndim == 1 else self.labels.shape[1], len(buffers)), buffers

    @classmethod
    def unpack(cls, header: Sequence[Any], buffers: Sequence[Buffer]) -> Tree:
        """The tree of `pack`, its arrays views of `buffers`."""
        kind, nodes, width, _ = header
        labels: NDArray[Any] = np.frombuffer(buffers[0], dtype=_DTYPES[kind])
        if width:
            labels = labels.reshape(nodes, width)
        if len(buffers) == 1:
            return cls(kind, labels)
        return cls(kind, labels, np.frombuffer(buffers[1], dtype=np.int32), np.frombuffer(buffers[2], dtype=np.int32))

    @classmethod
    def of_parents(cls, kind: LabelKind, labels: NDArray[Any], parents: NDArray[np.int64], *, field: str = "input_data.parents") -> Tree:
        """A tree from labels [n, ...] and parents [n] (-1 for the root) in any order.

        Raises InvalidInput unless there is exactly one root, every parent is a node, and every node reaches
        the root. Depths by pointer doubling: O(n log n) without a Python loop over nodes.
        """
        n = labels.shape[0]
        if parents.shape[0] != n:
            raise InvalidInput(
                f"{field} has {parents.shape[0]} entries for {n} labels", field=field, value=parents.shape[0], expected=f"{n} entries"
            )
        wrong = np.flatnonzero((parents < -1) | (parents >= n))
        if wrong.size:
            at, value = int(wrong[0]), int(parents[wrong[0]])
            raise InvalidInput(
                f"{field}[{at}] is {value}, expected -1 (the root) or 0..{n - 1}",
                field=f"{field}[{at}]",
                value=value,
                expected=f"-1 or 0..{n - 1}",
            )
        roots = np.flatnonzero(parents == -1)
        if roots.size != 1:
            raise InvalidInput(
                f"{field} has {roots.size} roots, expected exactly one -1", field=field, value=int(roots.size), expected="exactly one -1"
            )
        root = int(roots[0])
        ancestor = parents.copy()
        ancestor[root] = root
        depth = np.ones(n, dtype=np.int64)
        depth[root] = 0
        for _ in range(max(1, n - 1).bit_length()):
            depth += depth[ancestor]
            ancestor = ancestor[ancestor]
        lost = np.flatnonzero(ancestor != root)
        if lost.size:
            at = int(lost[0])
            raise InvalidInput(
                f"{field}[{at}] does not lead to the root: the parents form a cycle",
                field=f"{field}[{at}]",
                value=int(parents[at]),
                expected="parents without cycles",
            )
        order = np.argsort(-depth, kind="stable")
        level_sizes = np.bincount(depth)[::-1].astype(np.int32)
        sorted_labels = np.ascontiguousarray(labels[order])
        if level_sizes.shape[0] == n:
            return cls(kind, sorted_labels)
        rank = np.empty(n + 1, dtype=np.int32)
        rank[order] = np.arange(n, dtype=np.int32)
        rank[n] = -1
        return cls(kind, sorted_labels, rank[parents[order]], level_sizes)


def _view(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")
