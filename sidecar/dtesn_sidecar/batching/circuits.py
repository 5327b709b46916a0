"""The two circuit breakers of the manager, batched and direct, and what they let through. Pure; `now` is passed in."""

from __future__ import annotations

from dtesn_api.spec import BatchConfiguration

from .breaker import Breaker, Circuit


class Circuits:
    """`batch` counts batches, `direct` runs of one outside of batches. A disabled breaker is closed."""

    def __init__(self, config: BatchConfiguration) -> None:
        self.batch = Breaker(threshold=config.failure_threshold, timeout=config.circuit_breaker_timeout)
        self.direct = Breaker(threshold=config.failure_threshold, timeout=config.circuit_breaker_timeout)
        self.enabled = config.enable_circuit_breaker

    def configure(self, config: BatchConfiguration) -> None:
        """Take new bounds; the states stay."""
        self.enabled = config.enable_circuit_breaker
        for breaker in (self.batch, self.direct):
            breaker.threshold, breaker.timeout = config.failure_threshold, config.circuit_breaker_timeout

    def state(self, breaker: Breaker, now: float) -> Circuit:
        """Where one of them stands."""
        return breaker.state(now) if self.enabled else Circuit.CLOSED

    def falls_back(self, now: float) -> bool:
        """Whether what is queued runs directly now: the breaker is open, or half-open with its probe under way."""
        return self.enabled and self.batch.state(now) is not Circuit.CLOSED and not self.batch.wants_probe(now)

    def allows_direct(self, now: float) -> bool:
        """Whether a direct run may start."""
        return not self.enabled or self.direct.state(now) is Circuit.CLOSED or self.direct.wants_probe(now)

    def wants_probe(self, now: float) -> bool:
        """Whether the next batch is the probe."""
        return self.enabled and self.batch.wants_probe(now)

    def until_probe(self, now: float) -> float | None:
        """Seconds to the next probe of either, or None: nothing is waited for."""
        return min((after for breaker in (self.batch, self.direct) if (after := breaker.retry_after(now))), default=None)
