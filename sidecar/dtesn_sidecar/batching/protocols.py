"""The seams of batching: what the manager sees of the work, of the place where it runs, and of who watches.

Nothing here knows what an item is. Payloads are opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from dtesn_sidecar.errors import WorkerLost


@dataclass(frozen=True, slots=True)
class Work:
    """How much one item costs, known at admission.

    `nodes` are the units of the node budget, `levels` the sequential steps (a chain has as many levels as
    nodes), `shape` what items of one batch must share (for the DTESN: model and esn_size), `model` the key of
    the cost model and of the baseline within that shape (for the DTESN: also the depth). `charge` is what the
    node budgets (`max_batch_nodes`, `max_queue_nodes`) count for it where that is not `nodes`: at an esn_size
    of N other than the configured N0 it is ceil(nodes * N / N0), so that memory stays bounded. `operations` per node
    (for the DTESN: proportional to N^2 L) scale what was measured of one model to one that nothing was measured of.
    """

    nodes: int = 1
    levels: int = 1
    shape: Hashable = None
    model: Hashable = None
    charge: int | None = None
    operations: float | None = None


class WorkerHung(WorkerLost):
    """The worker ran longer than it may and was killed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a batch as the runner sees it. `seconds`: its answer is of use only that long from now (None: always)."""

    id: int
    payload: object
    work: Work
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What one run of a batch took. `complete`: every entry was computed (incomplete runs are no samples).

    `cpu_seconds`: of the `seconds`, those that the worker had a core (None: not known, or not what limits it, as on a GPU).
    """

    seconds: float
    nodes: int
    levels: int
    complete: bool
    worker: int = 0
    slices: int = 1
    peak_bytes: int = 0
    nodes_dropped: int = 0
    cpu_seconds: float | None = None


class BatchRunner(Protocol):
    """Where batches run: `workers` places, each running one batch at a time.

    The manager never has more than `workers` calls of `run` under way.
    """

    @property
    def workers(self) -> int:
        """Number of batches that can run at once (>= 1)."""

    async def start(self) -> None:
        """Make the workers ready; returns when the first batch can run."""

    async def stop(self) -> None:
        """End the workers. Idempotent. Runs under way fail with `WorkerLost`."""

    async def run(self, entries: Sequence[Entry], finished: Callable[[int, object], None], *, hung_after: float) -> RunReport:
        """Compute one batch on a free worker.

        Calls `finished(id, result_or_exception)` on the event loop as entries finish, at most once for each. An
        entry that between two slices can no longer finish within its `seconds` may be left out: `DeadlineExceeded`.
        Raises `OutOfMemory` (the batch did not fit), `WorkerHung` (it ran longer than `hung_after` seconds; the
        worker was killed and replaced), `WorkerLost` (it died) or any other exception (the batch failed as a whole);
        entries for which `finished` was not called by then are undecided.
        """

    def drop(self, ids: Collection[int]) -> bool:
        """Nobody waits for these any more. True where a running batch leaves them out from its next slice on, and so ends sooner."""

    def byte_cap(self) -> int | None:
        """Bytes that a batch may take now, or None for no bound."""

    def bytes_of(self, works: Sequence[Work]) -> int:
        """Bytes that a batch of these takes, from the formula that sizes the buffers."""


class Caller(Protocol):
    """Who submits, as far as whoever watches wants to know: the trace that this request is part of."""

    @property
    def trace_id(self) -> str:
        """The id of its trace, which is recorded."""


CALLER: ContextVar[Caller | None] = ContextVar("dtesn_caller", default=None)
"""Set before submitting, it comes back in the `RequestDone` of what is submitted."""


@dataclass(frozen=True, slots=True)
class RequestDone:
    """One accepted request has its outcome.

    `outcome`: `ok`, `failed` (its own compute failed), `invalid` (its input is at fault), `unavailable`
    (undecided, out of memory, worker lost or stopped: 503), `expired` (504), `displaced` (429) or `cancelled`.
    Times are in seconds; `total_seconds` runs from accept to answer. `batch_items` is the size of the batch it
    was computed in, `batch` that batch's number and `closed_by` why it was closed (0 and empty: it never was). `caller`
    is what `CALLER` was when it was submitted.
    """

    work: Work
    priority: int
    outcome: str
    queue_seconds: float
    compute_seconds: float
    total_seconds: float
    batch_items: int
    direct: bool
    batch: int = 0
    closed_by: str = ""
    caller: Caller | None = None


@dataclass(frozen=True, slots=True)
class BatchDone:
    """One batch left its worker, whatever became of it.

    `closed_by`: `full`, `window`, `idle` (nothing worth waiting for), `deadline`, `nodes`, `drain`, `direct`,
    `breaker` (a direct run because the breaker is open) or `probe` (the breaker is half-open). `places` is
    what `batch_utilization` divides by (0: a direct run, not counted). `gap_seconds`: how long the worker had
    been idle although requests were queued. `efficiency`: node rate over the best of this shape, or None.
    """

    worker: int
    items: int
    places: int
    limit: int
    max_batch_size: int
    closed_by: str
    seconds: float
    predicted_seconds: float | None
    nodes: int
    nodes_dropped: int
    slices: int
    succeeded: int
    complete: bool
    direct: bool
    gap_seconds: float
    predicted_minus_actual_wait: float | None
    efficiency: float | None
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was not accepted.

    `reason`: `queue_full`, `queue_nodes`, `deadline`, `backlog`, `too_large`, `breaker`, `draining` or `dead`.
    """

    reason: str
    priority: int
    status: int
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """`breaker` is `batch` or `direct`; `to` is `closed`, `open` or `half_open`."""

    breaker: str
    to: str


@dataclass(frozen=True, slots=True)
class Bisected:
    """A batch that failed as a whole was taken apart in `runs` further runs.

    `cause`: `error`, `out_of_memory`, `worker_lost` or `hung`. `undecided` items were given up (503).
    """

    cause: str
    items: int
    runs: int
    undecided: int


class BatchObserver(Protocol):
    """Who watches the manager. Every call is synchronous, on the event loop, and must be quick.

    An exception in an observer is logged once and counted, never fatal. Subclass `SilentObserver` to
    implement only some of these.
    """

    def request_done(self, event: RequestDone) -> None:
        """An accepted request has its outcome."""

    def batch_done(self, event: BatchDone) -> None:
        """A batch left its worker."""

    def refused(self, event: Refused) -> None:
        """A request was not accepted."""

    def breaker_changed(self, event: BreakerChanged) -> None:
        """A circuit breaker changed its state."""

    def direct(self, reason: str) -> None:
        """A request runs directly: `requested` (by the caller) or `breaker` (fallback)."""

    def cancelled(self, *, computing: bool) -> None:
        """The caller went away while its request was queued or computing."""

    def deadline_missed(self, where: str) -> None:
        """A deadline passed (or could not be met): `queued`, `dispatch` or `computing`."""

    def bisected(self, event: Bisected) -> None:
        """A failed batch was taken apart."""

    def worker_restarted(self, reason: str) -> None:
        """A worker was lost and replaced: `died` or `hung`."""

    def policy_failed(self, policy: str) -> None:
        """A policy raised; its part is done by the `fixed` rules until the next configuration."""


class SilentObserver:
    """A `BatchObserver` that ignores everything."""

    def request_done(self, event: RequestDone) -> None:
        """Ignore."""

    def batch_done(self, event: BatchDone) -> None:
        """Ignore."""

    def refused(self, event: Refused) -> None:
        """Ignore."""

    def breaker_changed(self, event: BreakerChanged) -> None:
        """Ignore."""

    def direct(self, reason: str) -> None:
        """Ignore."""

    def cancelled(self, *, computing: bool) -> None:
        """Ignore."""

    def deadline_missed(self, where: str) -> None:
        """Ignore."""

    def bisected(self, event: Bisected) -> None:
        """Ignore."""

    def worker_restarted(self, reason: str) -> None:
        """Ignore."""

    def policy_failed(self, policy: str) -> None:
        """Ignore."""
