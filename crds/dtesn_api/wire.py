"""The HTTP bodies: what requests may say and what answers hold. The OpenAPI document is generated from these.

Names are snake_case on the wire too. Bounds that a server's configuration sets (its longest timeout, its largest
request, its model's name) are checked where that is known. Decoding lives in `bodies.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from dtesn_api.problems import Problem
from dtesn_api.spec.batching import BatchConfiguration
from dtesn_api.spec.model import ESN_SIZE, MEMBRANE_DEPTH

InputFormat = Literal["auto", "text", "series", "tree", "json", "xml"]
Output = Literal["summary", "features", "readout"]
Depth = Annotated[int, MEMBRANE_DEPTH]
Size = Annotated[int, ESN_SIZE]
Priority = Annotated[int, Meta(ge=0, le=2, description="0 is the highest.")]
Timeout = Annotated[
    float,
    Meta(
        gt=0,
        le=3600,
        extra={
            "expected": "a finite number of seconds above 0 and at most the server's maxTimeoutSeconds "
            f"({BatchConfiguration().max_timeout:g} unless configured)"
        },
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=63)]


class RequestOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every request may say beside its input."""

    input_format: Annotated[InputFormat, Meta(description="How the input is read; auto goes by its JSON type.")] = "auto"
    membrane_depth: Annotated[Depth | None, Meta(description="Layers to compute; absent = the model's.")] = None
    esn_size: Annotated[Size | None, Meta(description="Units per layer; absent = the model's.")] = None
    priority: Priority = 1
    timeout: Annotated[
        Timeout | None, Meta(description="Seconds for queue and compute, at most the server's maxTimeoutSeconds; absent = adaptive.")
    ] = None
    model: Annotated[ModelName | None, Meta(description="Name of the model; absent = the only one.")] = None
    output: Annotated[
        Output | None,
        Meta(description="What the answer holds; absent = readout where one is fitted for this depth and size, else summary."),
    ] = None


class ProcessRequest(RequestOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /dtesn/process_with_batching`."""

    input_data: Annotated[Any, Meta(description="A string, an array, an object or a flat tree, as input_format says.")]
    enable_batching: Annotated[bool, Meta(description="false: a batch of one.")] = True


class DirectRequest(RequestOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /dtesn/process`, which never batches."""

    input_data: Annotated[Any, Meta(description="A string, an array, an object or a flat tree, as input_format says.")]


class BatchProcessRequest(RequestOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /dtesn/batch_process`: many inputs with the same options."""

    inputs: Annotated[list[Any], Meta(min_length=1, max_length=65_536, description="The inputs, answered in this order.")]
    enable_load_balancing: Annotated[
        bool, Meta(description="Spread the inputs over several dynamic batches by cost, rather than fill one after the other.")
    ] = True


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The network that computed an answer."""

    name: str
    seed: int
    membrane_depth: int
    esn_size: int


class StateSummary(Struct, frozen=True, kw_only=True):
    """One state vector in two numbers."""

    norm: Annotated[float, Meta(description="Euclidean norm.")]
    mean: Annotated[float, Meta(description="Mean over the units.")]


class LayerSummary(Struct, frozen=True, kw_only=True):
    """One layer: the root's state and the mean of all nodes' states."""

    root: StateSummary
    mean: StateSummary


class ProcessedOutput(Struct, frozen=True, kw_only=True):
    """The answer by itself. Which of the last fields are there depends on `output`."""

    output: Output
    nodes: int
    height: Annotated[int, Meta(description="Edges from the root to the deepest leaf; 0 for a single node.")]
    model: ModelInfo
    summary: Annotated[list[LayerSummary] | UnsetType, Meta(description="output: summary, one entry per layer.")] = UNSET
    features: Annotated[list[float] | UnsetType, Meta(description="output: features, flat.")] = UNSET
    shape: Annotated[list[int] | UnsetType, Meta(description="Shape of the features: layers, 2 (root state, mean state), units.")] = UNSET
    prediction: Annotated[list[float] | str | UnsetType, Meta(description="output: readout; a vector, or a classifier's label.")] = UNSET
    scores: Annotated[dict[str, float] | UnsetType, Meta(description="output: readout of a classifier, by label.")] = UNSET


class EngineIntegration(Struct, frozen=True, kw_only=True):
    """How the answer came about."""

    batch_processed: Annotated[bool, Meta(description="Computed together with at least one other request.")]
    dynamic_batching: Annotated[bool, Meta(description="Went through the batch manager.")]
    batch_manager_active: Annotated[bool, Meta(description="The batch manager's loop is alive.")]


class ProcessResult(Struct, frozen=True, kw_only=True):
    """One answer."""

    processed_output: ProcessedOutput
    processing_time_ms: Annotated[float, Meta(description="Accept to answer.")]
    engine_integration: EngineIntegration


class PerformanceMetrics(Struct, frozen=True, kw_only=True):
    """The server at the time of the answer. null = not measured."""

    batching_enabled: bool
    current_batch_size: Annotated[int | None, Meta(description="The limit now in force.")]
    batch_throughput_improvement: Annotated[float | None, Meta(description="Percent, against the measured unbatched baseline.")]
    avg_server_load: float | None
    pending_requests: Annotated[int, Meta(description="Queued and not computing.")]


class ProcessResponse(Struct, frozen=True, kw_only=True):
    """Body of an answer to `process_with_batching` and `process`."""

    status: Literal["success"] = "success"
    result: ProcessResult
    performance_metrics: PerformanceMetrics


class ProblemDocument(Struct, frozen=True, kw_only=True):
    """An error (RFC 9457). `code` is stable and says which; `type` is always about:blank."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: Annotated[str, Meta(description="Stable, machine-readable.")]
    instance: Annotated[str | UnsetType, Meta(description="The request's X-Request-ID.")] = UNSET
    field: Annotated[str | UnsetType, Meta(description="The first field at fault.")] = UNSET
    value: Annotated[Any | UnsetType, Meta(description="Its value; left out where that is long.")] = UNSET
    expected: Annotated[str | UnsetType, Meta(description="What is allowed there.")] = UNSET
    errors: Annotated[list[Problem] | UnsetType, Meta(description="Every field at fault, where there are several.")] = UNSET
    retry_after: Annotated[int | UnsetType, Meta(description="Seconds, as in the Retry-After header.")] = UNSET


class BatchItem(Struct, frozen=True, kw_only=True):
    """The outcome of one input of a bulk call."""

    index: Annotated[int, Meta(description="Position in inputs.")]
    status: Literal["success", "error"]
    result: ProcessResult | UnsetType = UNSET
    error: ProblemDocument | UnsetType = UNSET


class BatchProcessResponse(Struct, frozen=True, kw_only=True):
    """Body of an answer to `batch_process`: results in the order of the inputs, each with its own status."""

    status: Annotated[Literal["success", "partial", "error"], Meta(description="Whether all, some or none succeeded.")]
    results: list[BatchItem]
    performance_metrics: PerformanceMetrics


class BatchMetrics(Struct, frozen=True, kw_only=True):
    """Averages over the last `performanceWindowSize` batches. null = not measured yet. Ratios are in [0, 1]."""

    requests_processed: int
    avg_batch_size: float | None
    throughput_improvement: Annotated[float | None, Meta(description="Percent.")]
    avg_server_load: float | None
    batch_utilization: float | None
    success_rate: float | None
    requests_per_second: float | None
    avg_processing_time_ms: Annotated[float | None, Meta(description="Compute per batch.")]
    avg_batch_wait_time: Annotated[float | None, Meta(description="Queueing per request, in ms.")]
    failure_rate: float | None
    circuit_breaker_open: bool


class ProviderLoad(Struct, frozen=True, kw_only=True):
    """One source of load: a value with its age and weight, or null with the reason."""

    value: float | None
    age_seconds: float | UnsetType = UNSET
    weight: float | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class BatchMetricsResponse(Struct, frozen=True, kw_only=True):
    """Body of `GET /dtesn/batch_metrics`."""

    status: Literal["success"] = "success"
    batching_enabled: bool
    current_batch_size: int | None
    pending_requests: int
    metrics: BatchMetrics
    server_load: Annotated[
        dict[str, int | ProviderLoad],
        Meta(description="`active_requests` (accepted and unanswered), and every source of load by its name."),
    ]


class LatencyFigures(Struct, frozen=True, kw_only=True):
    """Percentiles in ms of the last minute, estimated from a histogram's buckets as Prometheus does. null = nothing was observed."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class RecentFigures(Struct, frozen=True, kw_only=True):
    """What was counted within the last minute: differences of the counters of `/metrics`."""

    seconds: Annotated[float, Meta(description="How far back this goes; less than a minute after the start.")]
    requests: Annotated[dict[str, int], Meta(description="Requests by outcome, as the label of dtesn_requests_total.")]
    closed_by: Annotated[dict[str, int], Meta(description="Batches by why they were closed, as the label of dtesn_batches_total.")]
    total: Annotated[LatencyFigures, Meta(description="Accept to answer.")]
    queue: LatencyFigures
    compute: Annotated[LatencyFigures, Meta(description="Dispatch to result.")]


class ManagerFigures(Struct, frozen=True, kw_only=True):
    """The batch manager at one moment. null = not measured yet."""

    strategy: str
    target_batch_size: Annotated[int, Meta(description="What the limit is derived from, before load.")]
    places: Annotated[int, Meta(description="Forecast for the next batch.")]
    wait_ms: Annotated[float, Meta(description="The window in force.")]
    workers: int
    workers_busy: int
    computing: Annotated[int, Meta(description="Items in workers.")]
    pending_by_priority: Annotated[list[int], Meta(description="Queued, by priority from 0.")]
    oldest_seconds: Annotated[float, Meta(description="Age of the oldest queued; 0 with none.")]
    predicted_wait_seconds: float | None
    load: Annotated[float | None, Meta(description="Combined; null = no source has data.")]
    breaker: Literal["closed", "open", "half_open"]
    direct_breaker: Annotated[Literal["closed", "open", "half_open"], Meta(description="Of direct runs, the fallback.")]
    breaker_retry_after_seconds: Annotated[float | None, Meta(description="To the next probe; null where it is closed.")]
    baseline_nodes_per_second: float | None
    baseline_samples: int
    baseline_age_seconds: float | None
    batch_fill: float | None
    device_efficiency: float | None


class LivePoint(Struct, frozen=True, kw_only=True):
    """One second of the live page's charts. null = nothing was measured."""

    time: Annotated[float, Meta(description="Seconds since 1970.")]
    answered_per_second: Annotated[float | None, Meta(description="Requests answered, over the last 10 s.")]
    failed_per_second: Annotated[float | None, Meta(description="Requests with any other outcome, over the last 10 s.")]
    p50_ms: Annotated[float | None, Meta(description="Of the last minute, as all percentiles.")]
    p95_ms: float | None
    p99_ms: float | None
    batch_size: Annotated[float | None, Meta(description="Mean, over the last 10 s.")]
    limit: int | None
    target: int | None
    load: float | None
    pending: int | None


class LiveEvent(Struct, frozen=True, kw_only=True):
    """Data of an event of `GET /events`: everything as it is now, and the points of the charts since the last event seen."""

    server: Annotated[str, Meta(description="Another one = the server was restarted.")]
    phase: Literal["starting", "serving", "leaving", "closed"]
    reasons: Annotated[list[str], Meta(description="Why no requests should come here; empty = they should.")]
    inside: Annotated[int, Meta(description="Requests that were let in and are not answered.")]
    metrics: Annotated[
        BatchMetricsResponse | None, Meta(description="The body of GET /dtesn/batch_metrics; null until the manager has started.")
    ]
    manager: Annotated[ManagerFigures | None, Meta(description="null until the manager has started.")]
    recent: RecentFigures | None
    points: list[LivePoint]


class ConfigResponse(Struct, frozen=True, kw_only=True):
    """Body of `GET /config`: what is in force, and what is not and why."""

    config_hash: Annotated[str | None, Meta(description="SHA-256 of the file's bytes as loaded; null without a file.")]
    source: Annotated[str | None, Meta(description="The file; null without one.")]
    backend: Annotated[str, Meta(description="The backend taken: numpy or cupy.")]
    device: str
    workers: int
    version: str
    spec: Annotated[dict[str, Any], Meta(description="What the sidecar reads of the spec, as in force.")]
    reload_errors: Annotated[list[Problem], Meta(description="Why the file as it is now was not taken; empty = it was.")]
    needs_restart: Annotated[list[str], Meta(description="Fields that differ in the file and take effect at the next start.")]


class HealthResponse(Struct, frozen=True, kw_only=True):
    """Body of `/healthz` and `/readyz`, whatever their status code."""

    status: Literal["ok", "unavailable"]
    reasons: list[str]
