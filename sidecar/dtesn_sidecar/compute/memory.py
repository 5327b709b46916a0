"""How many bytes a batch takes, and how many it may: known before it runs, from the formula that sizes the buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from dtesn_sidecar import cgroup
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.compute.job import size_and_depth
from dtesn_sidecar.model.reservoir import run_bytes

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration

SHARE: Final = 0.8
_FRESH_SECONDS: Final = 0.25  # one look costs a fifth of a millisecond


class MemoryBound:
    """The byte cap of batches, read from the container at most four times a second.

    `free` gives the bytes left now, or None where that is not known.
    """

    def __init__(
        self,
        model: ModelConfiguration,
        *,
        free: Callable[[], int | None] = cgroup.memory_free,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._free, self._clock = free, clock
        self._read_at: float | None = None
        self._value: int | None = None

    def cap(self, idle: int) -> int | None:
        """0.8 x the bytes free now, shared by the `idle` workers that may each start a batch; None: no bound."""
        now = self._clock()
        if self._read_at is None or now - self._read_at >= _FRESH_SECONDS:
            self._read_at, self._value = now, self._free()
        return None if self._value is None else int(SHARE * self._value / idle)

    def bytes_of(self, works: Sequence[Work]) -> int:
        """Bytes of the buffers of a run of these, which share an esn_size."""
        sizes = [size_and_depth(work) for work in works]
        depth = max((depth for _, depth in sizes), default=1)
        esn_size = sizes[0][0] if sizes else self._model.esn_size
        itemsize = 8 if self._model.dtype == "float64" else 4
        return run_bytes([(work.nodes, work.levels) for work in works], esn_size, depth, itemsize, self._model.order)
