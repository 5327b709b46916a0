"""Percentiles from the buckets of a histogram. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dtesn_sidecar.metrics.tallies import Tallied


def since(now: Tallied, before: Tallied | None) -> Tallied:
    """What was observed between two readings of one histogram (None: since the start)."""
    if before is None:
        return now
    counts = tuple(after - earlier for after, earlier in zip(now.counts, before.counts, strict=True))
    return Tallied(now.bounds, counts, now.sum - before.sum)


def quantile(histogram: Tallied, q: float) -> float | None:
    """The q-quantile, 0 < q <= 1, in the histogram's unit; None where nothing was observed.

    As Prometheus' `histogram_quantile`, so that this and a dashboard agree: values are taken to be spread evenly over
    their bucket, the first of which begins at 0; what lies beyond the last bound counts as that bound.
    """
    total = sum(histogram.counts)
    if total <= 0:
        return None
    rank, below, lower = q * total, 0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * max(0.0, rank - below) / count
        below += count
        lower = bound
    return histogram.bounds[-1]


def mean(histogram: Tallied) -> float | None:
    """The mean, exact; None where nothing was observed."""
    total = sum(histogram.counts)
    return histogram.sum / total if total > 0 else None


def quantiles(histogram: Tallied, qs: Sequence[float]) -> list[float | None]:
    """Several at once."""
    return [quantile(histogram, q) for q in qs]
