"""The bytes that a batch may take: what the runner allows, less what out-of-memory has taught. Pure."""

from __future__ import annotations

RECOVERY = 1.05
RECOVERY_SPAN = 10.0
FORGOTTEN_AFTER = 300.0
"""Recovery steps (50 minutes, a factor of two million) after which nothing is left of the lesson."""


class MemoryCap:
    """Halved by out-of-memory, recovering 5 % per 10 s up to what the runner allows."""

    __slots__ = ("_learned", "_since")

    def __init__(self) -> None:
        self._learned: float | None = None
        self._since = 0.0

    def cap(self, allowed: int | None, now: float) -> int | None:
        """Bytes for the next batch, or None for no bound. `allowed`: what the runner's own bound is now."""
        learned = self._recovered(now)
        if learned is None:
            return allowed
        return max(1, int(learned)) if allowed is None else max(1, min(allowed, int(learned)))

    def out_of_memory(self, batch_bytes: int, items: int, allowed: int | None, now: float) -> bool:
        """A batch of so many bytes and items did not fit: halve the cap, counted from what the batch took.

        An item alone that takes less than half of the cap says nothing about batches (whatever a request does to its
        worker, others shall not pay for it). Returns whether anything was learnt.
        """
        current = self.cap(allowed, now)
        if items <= 1 and (current is None or 2 * batch_bytes <= current):
            return False
        self._learned = (batch_bytes if current is None else min(current, batch_bytes)) / 2.0
        self._since = now
        return True

    def _recovered(self, now: float) -> float | None:
        if self._learned is None:
            return None
        steps = max(0.0, (now - self._since) / RECOVERY_SPAN)
        if steps > FORGOTTEN_AFTER:
            self._learned = None
            return None
        return float(self._learned * RECOVERY**steps)
