"""Telling who watches, and counting what others wrote and got wrong. Nothing here changes what happens to a request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .batch import Batch, BatchResult
from .protocols import BatchDone, BatchObserver

log = logging.getLogger(__name__)


class Watch:
    """The observer, kept from harming anyone, and the failures of policies: how many and the last one's text."""

    def __init__(self, observer: BatchObserver) -> None:
        self.observer = observer
        self._observer_failed = False
        self.failures = 0
        self.last: str | None = None

    def tell(self, call: Callable[..., None], *args: object, **named: object) -> None:
        """Call a method of the observer."""
        try:
            call(*args, **named)
        except Exception as error:
            self.failures += 1
            if not self._observer_failed:
                self._observer_failed = True
                log.error("the observer failed", exc_info=error)

    def failed(self, policy: str, error: Exception) -> None:
        """A policy raised."""
        self.failures += 1
        self.last = f"{policy}: {type(error).__name__}: {error}"
        log.error("the %s policy failed", policy, exc_info=error)
        self.tell(self.observer.policy_failed, policy)


def batch_done(batch: Batch, result: BatchResult, *, max_batch_size: int, efficiency: float | None) -> BatchDone:
    """The event of a batch that left its worker."""
    report = result.report
    return BatchDone(
        worker=report.worker if report is not None else 0,
        items=len(batch.items),
        places=batch.places,
        limit=batch.limit,
        max_batch_size=max_batch_size,
        closed_by=batch.closed_by,
        seconds=report.seconds if report is not None else result.seconds,
        predicted_seconds=batch.predicted,
        nodes=report.nodes if report is not None else 0,
        nodes_dropped=report.nodes_dropped if report is not None else 0,
        slices=report.slices if report is not None else 0,
        succeeded=result.succeeded,
        complete=result.clean,
        direct=batch.direct,
        gap_seconds=batch.gap,
        predicted_minus_actual_wait=batch.wait_error,
        efficiency=efficiency,
        batch=batch.id,
    )
