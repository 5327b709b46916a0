"""One batch on its way, and what became of it. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from .item import Item
from .protocols import RunReport


@dataclass(slots=True, eq=False)
class Batch:
    """Items chosen for one worker. `places` is 0 for direct runs; `idle_probe`: a baseline run nobody waits for.

    `wait_error`: predicted minus actual wait of its first item, in seconds (None: nothing was predicted).
    `withheld`: worker-seconds before its end in which a worker had nothing to do and items were not given to it, because they were held for
    a fuller batch or shared fewer batches than there are places. `left_out`: ids of items that its worker computes no further.
    """

    id: int
    items: list[Item]
    places: int
    limit: int
    closed_by: str
    started: float
    predicted: float | None
    gap: float
    direct: bool = False
    fallback: bool = False
    probe: bool = False
    idle_probe: bool = False
    wait_error: float | None = None
    withheld: float = 0.0
    left_out: set[int] = field(default_factory=set)

    @property
    def ends(self) -> float:
        """Predicted end; its start where nothing is known."""
        return self.started + (self.predicted or 0.0)


@dataclass(slots=True)
class BatchResult:
    """What became of it. `report` is that of a first run that ended; `clean`: that run is a sample."""

    succeeded: int = 0
    failed: int = 0
    blamed: int = 0
    report: RunReport | None = None
    clean: bool = False
    runs: int = 1
    undecided: int = 0
    cause: str = ""
    seconds: float = 0.0
