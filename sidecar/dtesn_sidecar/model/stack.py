"""What a batch needs of the model on its device: layers, constants and the memory of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dtesn_sidecar.model.backend import Array, Backend


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer on the device."""

    input: Array
    recurrent: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Stack:
    """What a batch needs of the model."""

    backend: Backend
    layers: tuple[Layer, ...]
    esn_size: int
    dtype: np.dtype[Any]
    leak_rate: float
    aggregation_exponent: float
    order: int
    features_dtype: np.dtype[Any]
    leak: Array = field(init=False)
    keep: Array = field(init=False)

    def __post_init__(self) -> None:
        # As arrays without axes: NumPy takes twice as long over a Python float.
        object.__setattr__(self, "leak", self.backend.scalar(self.leak_rate, self.dtype))
        object.__setattr__(self, "keep", self.backend.scalar(1.0 - self.leak_rate, self.dtype))

    def empty(self, rows: int) -> Array:
        """Rows of states, not initialised."""
        return self.backend.empty((rows, self.esn_size), self.dtype)

    def zeros(self, rows: int, dtype: np.dtype[Any]) -> Array:
        """Rows of zeros."""
        array = self.backend.empty((rows, self.esn_size), dtype)
        self.backend.copy(0.0, array)
        return array


class Buffers:
    """Memory of a run: two blocks of rows that layers fill in turn, and rows for one step. Grows, never shrinks."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._rows = (0, 0)
        self.blocks: list[Array] = []
        self.carried: Array = None
        self.product: Array = None
        self.part: Array = None
        self.pairs: list[Array] = []
        self.stages: list[Array] = []

    def fit(self, block_rows: int, step_rows: int) -> None:
        """Hold at least so many rows in a block and in a step."""
        if block_rows <= self._rows[0] and step_rows <= self._rows[1]:
            return
        self._rows = block, step = max(block_rows, self._rows[0]), max(step_rows, self._rows[1])
        empty = self._stack.empty
        self.blocks = [empty(block) for _ in range(2)]
        self.carried, self.product, self.part = empty(step), empty(step), empty(step)
        self.pairs = [empty(step) for _ in range(2)]
        self.stages = [empty(step) for _ in range(self._stack.order + 1)] if self._stack.order > 1 else []
