"""`spec.batching`: how requests become batches. Every field is live: a change is swapped in between two batches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dtesn_api.reading import Section
from dtesn_api.schema import Rule

Ratio = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Milliseconds = Annotated[float, Meta(ge=0, le=10_000)]
BatchSize = Annotated[int, Meta(ge=1, le=4096)]


class BatchConfiguration(Section, frozen=True, kw_only=True):
    """Sizes, windows, bounds and failure handling of dynamic batching."""

    strategy: Annotated[
        Literal["fixed", "load_aware", "just_in_time"],
        Meta(
            description="How batches are sized and how long they wait: `fixed` always takes the target size and the longest window, "
            "`load_aware` moves both with the server's load, `just_in_time` dispatches as soon as a device is free."
        ),
    ] = "load_aware"
    min_batch_size: Annotated[BatchSize, Meta(description="The limit on items per batch never falls below this.")] = 1
    max_batch_size: Annotated[BatchSize, Meta(description="The limit on items per batch never rises above this.")] = 32
    target_batch_size: Annotated[
        BatchSize, Meta(description="Items per batch at normal load; where adaptive sizing is on, the size to start from.")
    ] = 8
    low_load_threshold: Annotated[Ratio, Meta(description="Below this load, batches grow beyond the base size.")] = 0.3
    high_load_threshold: Annotated[Ratio, Meta(description="Above this load, batches shrink below the base size.")] = 0.8
    load_adjustment_factor: Annotated[
        Ratio, Meta(description="How strongly load moves the size: 0.2 is up to 20 % more when idle and 20 % less when full.")
    ] = 0.2
    max_batch_wait_ms: Annotated[
        Milliseconds, Meta(description="The longest that a batch is held open to fill, in milliseconds; load shortens it.")
    ] = 50.0
    min_batch_wait_ms: Annotated[
        Milliseconds,
        Meta(
            description="The shortest window, at full load, and the longest hold of an idle device, in milliseconds. For clients who come "
            "back after a long batch it is held for a tenth of that, within the longest window."
        ),
    ] = 5.0
    enable_adaptive_sizing: Annotated[
        bool, Meta(description="Take as base the smallest size that is nearly as fast as the fastest measured, rather than the target.")
    ] = True
    performance_window_size: Annotated[
        int, Meta(ge=1, le=10_000, description="Batches that averages, utilisation and improvement are computed over.")
    ] = 100
    adaptation_rate: Annotated[
        float, Meta(gt=0, le=1, description="Share of the way from the present size and wait to the wanted ones, per 100 ms.")
    ] = 0.1
    enable_circuit_breaker: Annotated[bool, Meta(description="Stop batching for a while after whole batches failed in a row.")] = True
    failure_threshold: Annotated[int, Meta(ge=1, le=1000, description="Consecutive failed batches that open the breaker.")] = 5
    circuit_breaker_timeout: Annotated[
        float, Meta(ge=0.1, le=3600, description="Seconds that the breaker stays open before it lets a probe through.")
    ] = 30.0
    max_batch_nodes: Annotated[
        int,
        Meta(
            ge=1,
            le=16_777_216,
            description="Nodes per batch at the configured reservoir size (the token budget of an LLM engine); at another size it is "
            "scaled so that memory stays bounded.",
        ),
    ] = 65_536
    max_queue_size: Annotated[int, Meta(ge=1, le=1_000_000, description="Queued requests beyond which a new one is answered 429.")] = 1024
    max_queue_nodes: Annotated[
        int, Meta(ge=1, le=1_073_741_824, description="Queued nodes beyond which a new request is answered 429.")
    ] = 1_048_576
    default_timeout: Annotated[
        Seconds | None,
        Meta(
            description="Seconds a request without a timeout of its own may take; absent = adaptive, a multiple of the recent p99 within "
            "the two bounds below."
        ),
    ] = None
    min_timeout: Annotated[Seconds, Meta(description="The shortest adaptive timeout, in seconds.")] = 1.0
    max_timeout: Annotated[Seconds, Meta(description="The longest timeout, adaptive or asked for, in seconds.")] = 300.0
    aging_ms: Annotated[
        float, Meta(ge=0, le=600_000, description="Waiting this many milliseconds raises a request's priority by one, so nothing starves.")
    ] = 500.0
    max_direct_concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="Fallback runs at once while the breaker is open; absent = the number of workers."),
    ] = None
    max_concurrent_batches: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="Batches computing at once; absent = adaptive, from one to the number of workers."),
    ] = None
    max_batch_seconds: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="Predicted seconds of compute that a batch is filled up to. A batch is never shorter than its sequential steps: "
            "where these take more than half of this, it is filled up to twice as long, and to twice a request that alone takes longer.",
        ),
    ] = 0.25
    max_request_seconds: Annotated[
        Seconds, Meta(description="A request predicted to compute longer than this many seconds is refused (413).")
    ] = 30.0

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="batch size: min <= target",
            fields=("min_batch_size", "target_batch_size"),
            holds=lambda s: s.min_batch_size <= s.target_batch_size,
            sentence="at most {target_batch_size}",
            cel="self.minBatchSize <= self.targetBatchSize",
        ),
        Rule(
            name="batch size: target <= max",
            fields=("target_batch_size", "max_batch_size"),
            holds=lambda s: s.target_batch_size <= s.max_batch_size,
            sentence="at most {max_batch_size}",
            cel="self.targetBatchSize <= self.maxBatchSize",
        ),
        Rule(
            name="load thresholds: low < high",
            fields=("low_load_threshold", "high_load_threshold"),
            holds=lambda s: s.low_load_threshold < s.high_load_threshold,
            sentence="below {high_load_threshold}",
            cel="self.lowLoadThreshold < self.highLoadThreshold",
        ),
        Rule(
            name="batch wait: min <= max",
            fields=("min_batch_wait_ms", "max_batch_wait_ms"),
            holds=lambda s: s.min_batch_wait_ms <= s.max_batch_wait_ms,
            sentence="at most {max_batch_wait_ms}",
            cel="self.minBatchWaitMs <= self.maxBatchWaitMs",
        ),
        Rule(
            name="timeouts: min <= max",
            fields=("min_timeout", "max_timeout"),
            holds=lambda s: s.min_timeout <= s.max_timeout,
            sentence="at most {max_timeout}",
            cel="self.minTimeoutSeconds <= self.maxTimeoutSeconds",
        ),
        Rule(
            name="timeouts: default <= max",
            fields=("default_timeout", "max_timeout"),
            holds=lambda s: s.default_timeout is None or s.default_timeout <= s.max_timeout,
            sentence="at most {max_timeout}",
            cel="!has(self.defaultTimeoutSeconds) || self.defaultTimeoutSeconds <= self.maxTimeoutSeconds",
        ),
    )
