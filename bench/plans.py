"""What the load generator is told and what it answers: one JSON line each."""

from __future__ import annotations

from typing import Literal

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of load.

    Open loop where `rate` is given: Poisson arrivals per second, latency from the intended send time. Else closed loop:
    `clients` that each send the next request when they have the answer to the last. The first `warm_up` seconds are not counted.
    """

    port: int
    seconds: float
    warm_up: float = 1.0
    rate: float | None = None
    clients: int = 1
    batching: bool = True
    timeout: float | None = None
    texts: Literal["mixed", "sentences"] = "mixed"
    text_count: int = 512
    text_seed: int = 0
    seed: int = 0
    output: Literal["summary", "features"] = "summary"
    expected: str | None = None  # an .npz of `answers`: compare every answer with these
    aborting: float = 0.0  # share of requests whose client goes away before the answer
    patience: float = 15.0  # after the end: what is unanswered by then hangs
    buckets: float = 0.0  # seconds of one bucket of the timeline; 0: none


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Counts are of the measured time but for those that must be 0 or whole: `hung`, `broken`, `wrong`,
    `failed` and `no_retry_after`, which are of all requests.
    """

    sent: int
    statuses: dict[str, int]  # by HTTP status; "refused": the connection was not accepted; "aborted"
    rate: float  # answers of 200 per second
    in_time: float  # of these, not later than `timeout` after the intended send time
    p50_ms: float
    p99_ms: float
    mean_ms: float
    latencies_ms: list[float]
    hung: int
    broken: int  # the connection was closed in place of an answer
    wrong: int  # 200, and not the answer that the text has when computed alone
    failed: int  # any status but 200
    no_retry_after: int  # 429, 503 or 504 without Retry-After
    checked: int
    worst: float  # largest difference from what was expected
    slip_p99_ms: float
    cpu: float  # of one core
    timeline: list[float]  # answers in time per second, by bucket from the start


def void_reasons(outcome: Outcome) -> list[str]:
    """Why the generator itself spoils the measurement: it sent too late."""
    if outcome.slip_p99_ms > 5.0:
        return [f"the generator's slip p99 is {outcome.slip_p99_ms:.1f} ms, more than 5 ms"]
    if outcome.p99_ms > 0 and outcome.slip_p99_ms > 0.1 * outcome.p99_ms:
        return [f"the generator's slip p99 is {outcome.slip_p99_ms:.1f} ms, more than 10 % of the measured p99 {outcome.p99_ms:.1f} ms"]
    return []
