"""What others took of the machine while something was measured: their burst is not the server's latency."""

from __future__ import annotations

import os
import time

import psutil

QUIET = 0.05
"""Share of the machine up to which others do not spoil a stretch of load: housekeeping takes 1 to 2 %."""


class Neighbours:
    """From its making on: the share of the machine that was neither idle nor ours (this process and all below it)."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def share(self) -> float:
        """Of all cores, since then; in [0, 1]."""
        elapsed = (time.monotonic() - self._began) * len(os.sched_getaffinity(0))
        others = (busy_seconds() - self._busy) - (own_seconds() - self._own)
        return min(1.0, max(0.0, others / elapsed)) if elapsed > 0 else 0.0


def busy_seconds() -> float:
    """CPU seconds of all programs on this machine, and those that its host gave to other machines."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "steal", 0.0))


def own_seconds() -> float:
    """CPU seconds of this process and of all below it that are still there."""
    total = 0.0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
