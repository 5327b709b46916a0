"""When a call is made again: a pure decision over what happened, and the budget that keeps retries from amplifying an overload.

The loop that acts on it is `calls.py`. Exponential back-off with full jitter after M. Brooker, "Exponential Backoff And Jitter" (AWS
Architecture Blog, 2015); a budget in proportion to the calls as in Finagle's `RetryBudget` and the Google SRE book, chapter 21.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import msgspec

_TIMES: Final = ("total_seconds", "base_seconds", "longest_seconds", "budget_burst")


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What is tried again, how often and after how long. `RetryPolicy(attempts=1)` never retries.

    `attempts` in all, the first included; `total_seconds` from the first attempt, after which none begins; the pause before
    attempt n + 1 is what Retry-After asks for plus a random share of min(longest_seconds, base_seconds * 2^(n - 1)).
    `statuses` are the answers after which the request is made again: 500 and 504 are not among them, since the server did
    the work (or ran out of time) and would again. `resend` makes it again where the connection broke before the whole answer
    came: every request only computes, so that a second one does no harm. Where no connection was made it always is.
    `budget_ratio` retries per call are allowed in the long run, and `budget_burst` beyond that at once; a connection that was
    refused costs nothing, since no server saw it. Raises ValueError naming the field, the value and the range.
    """

    attempts: int = 5
    total_seconds: float = 30.0
    base_seconds: float = 0.2
    longest_seconds: float = 5.0
    statuses: frozenset[int] = frozenset({429, 503})
    resend: bool = True
    budget_ratio: float = 0.2
    budget_burst: float = 50.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts!r}, must be at least 1")
        for name in _TIMES:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}, must be a finite number of at least 0")
        if not 0 <= self.budget_ratio <= 1:
            raise ValueError(f"budget_ratio is {self.budget_ratio!r}, must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class Refused:
    """No connection was made: the request was not sent."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection broke before the whole answer was there."""


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Another attempt would end the same."""


@dataclass(frozen=True, slots=True)
class Status:
    """The server answered with an error, and asked for a pause of so many seconds (None: of none)."""

    status: int
    retry_after: float | None = None


Failure = Refused | Broken | Hopeless | Status


@dataclass(frozen=True, slots=True)
class Again:
    """Make the request again after so many seconds; `cost` is taken from the budget."""

    after: float
    cost: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The failure is the call's outcome, and why it is not tried again."""

    reason: str


def decide(
    policy: RetryPolicy, failure: Failure, *, attempt: int, elapsed: float, left: float | None, tokens: float, jitter: float
) -> Again | GiveUp:
    """What follows after attempt number `attempt` (from 1) failed, `elapsed` seconds after the first began.

    `left` seconds remain of the call's deadline (None: it has none), `tokens` of the budget; `jitter` is random in [0, 1).
    """
    wait = 0.0
    match failure:
        case Status(status, retry_after):
            if status not in policy.statuses:
                return GiveUp(f"{status} is not tried again")
            wait = retry_after or 0.0
        case Hopeless():
            return GiveUp("another attempt would end the same")
        case Broken() if not policy.resend:
            return GiveUp("the request may have been processed, and resend is off")
    if attempt >= policy.attempts:
        return GiveUp(f"{attempt} of {policy.attempts} attempts were made")
    cost = 0.0 if isinstance(failure, Refused) else 1.0
    if tokens < cost:
        return GiveUp("the retry budget is used up")
    wait += jitter * min(policy.longest_seconds, math.ldexp(policy.base_seconds, min(attempt - 1, 64)))
    if elapsed + wait > policy.total_seconds:
        return GiveUp(f"the next attempt would begin after total_seconds ({policy.total_seconds:g})")
    if left is not None and wait >= left:
        return GiveUp("the deadline would have passed before the next attempt")
    return Again(wait, cost)


@dataclass(slots=True)
class Budget:
    """The retries that are allowed now: each call adds `budget_ratio`, each retry takes 1, never more than `budget_burst` are saved.

    So n calls are at most n (1 + budget_ratio) + budget_burst requests, whatever the server does.
    """

    policy: RetryPolicy
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.policy.budget_burst

    def called(self) -> None:
        """A call begins."""
        self.tokens = min(max(self.policy.budget_burst, self.tokens), self.tokens + self.policy.budget_ratio)

    def retried(self, cost: float) -> None:
        """A retry begins."""
        self.tokens -= cost
