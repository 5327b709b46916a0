"""The circuit breaker: closed, open, half-open. A pure state machine; who counts as failed is decided elsewhere."""

from __future__ import annotations

from enum import Enum


class Circuit(Enum):
    """The state of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after `threshold` failures in a row, for `timeout` seconds; then one probe at a time decides.

    A success resets the count. While open, only a probe's outcome counts.
    """

    __slots__ = ("_failures", "_open_until", "_opened", "_probing", "threshold", "timeout")

    def __init__(self, *, threshold: int, timeout: float) -> None:
        self.threshold = threshold
        self.timeout = timeout
        self._failures = 0
        self._opened = False
        self._open_until = 0.0
        self._probing = False

    def state(self, now: float) -> Circuit:
        """Where it stands."""
        if not self._opened:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self._open_until else Circuit.HALF_OPEN

    def wants_probe(self, now: float) -> bool:
        """True where it is half-open and no probe is under way."""
        return self.state(now) is Circuit.HALF_OPEN and not self._probing

    def probe_started(self) -> None:
        """The caller sends a probe; it must end in `record` or `probe_abandoned`."""
        self._probing = True

    def probe_abandoned(self) -> None:
        """The probe ended without telling anything: the next one decides."""
        self._probing = False

    def record(self, *, success: bool, probe: bool, now: float) -> None:
        """Count one run. Outside a probe an open breaker does not listen."""
        if probe:
            self._probing = False
            if success:
                self._opened, self._failures = False, 0
            else:
                self._open(now)
        elif self._opened:
            return
        elif success:
            self._failures = 0
        else:
            self._failures += 1
            if self._failures >= self.threshold:
                self._open(now)

    def retry_after(self, now: float) -> float | None:
        """Seconds to the next probe; None where it is closed."""
        return max(0.0, self._open_until - now) if self._opened else None

    def _open(self, now: float) -> None:
        self._opened = True
        self._failures = 0
        self._open_until = now + self.timeout
