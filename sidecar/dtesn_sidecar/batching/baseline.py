"""When the unbatched baseline is measured: at the start, and then at most 1 % of device time while idle. Pure."""

from __future__ import annotations

CALIBRATION_RUNS = 3
CALIBRATION_SECONDS = 0.3
SHARE = 0.01
ABANDONED_PAUSE = 1.0


class BaselineSchedule:
    """Three runs at the start, for at most 300 ms in all; then each run is followed by 99 times its length."""

    __slots__ = ("_at", "_runs", "_seconds")

    def __init__(self, now: float) -> None:
        self._runs = CALIBRATION_RUNS
        self._seconds = CALIBRATION_SECONDS
        self._at = now

    def due_at(self) -> float:
        """When the next run may start, if the device is idle then."""
        return self._at

    def ended(self, seconds: float, *, complete: bool, now: float) -> None:
        """A run took `seconds`; it is not `complete` where a request made it give way."""
        if self._runs > 0:
            self._runs -= 1
            self._seconds -= seconds
            if complete and self._runs > 0 and self._seconds > seconds:
                self._at = now
                return
            self._runs = 0
        self._at = now + seconds * (1.0 / SHARE - 1.0) + (0.0 if complete else ABANDONED_PAUSE)
