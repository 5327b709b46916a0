"""Every metric of the sidecar, once: what it is called, what it measures, which labels it has, and what it is good for.

The exposition takes its help texts and labels from here, docs/metrics.md is generated from here. Names are `dtesn_api.names`';
nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dtesn_api import names
from dtesn_sidecar.metrics.metric import (
    BREAKER_STATES,
    CLOSED_BY,
    LATENCY_BUCKETS,
    OUTCOMES,
    PRIORITIES,
    RATIO_BUCKETS,
    REFUSALS,
    SIZE_BUCKETS,
    Metric,
    Values,
)


def _latency(name: str, meaning: str, use: str, labels: Mapping[str, Values] | None = None) -> Metric:
    return Metric(name, "histogram", "seconds", meaning, use, labels or {}, LATENCY_BUCKETS)


TRAFFIC: Final = (
    Metric(
        names.METRIC_REQUESTS,
        "counter",
        "requests",
        "Requests that ended, by outcome",
        "Traffic and success rate. `ok` answered; `failed` its own compute failed (500); `invalid` its input is at fault; "
        "`unavailable` 503; `expired` 504; `displaced` and `refused` 429 or 503; `cancelled` its client left.",
        {"model": "the name of the model", "priority": PRIORITIES, "outcome": OUTCOMES},
    ),
    Metric(
        names.METRIC_HTTP_RESPONSES,
        "counter",
        "responses",
        "HTTP responses",
        "Errors that never reach the batcher, such as 400, 413 and 422, by route.",
        {"route": "the server's own paths, `malformed`, `other`", "status": "HTTP status codes"},
        absent="until the first response of that route and status",
    ),
    Metric(
        names.METRIC_RPC_CALLS,
        "counter",
        "calls",
        "gRPC calls, by method and status",
        "As above, of the Open Inference Protocol over gRPC: `INVALID_ARGUMENT` is the client's, `UNAVAILABLE` and `INTERNAL` ours.",
        {"method": "the methods of GRPCInferenceService", "code": "gRPC status codes"},
        absent="until the first call of that method and status, and without `--grpc-port`",
    ),
    Metric(
        names.METRIC_DISCONNECTS,
        "counter",
        "clients",
        "Clients that went away before their answer",
        "When it rises with latency, clients give up: give them shorter timeouts of ours, or add replicas.",
    ),
    Metric(
        names.METRIC_CANCELLATIONS,
        "counter",
        "requests",
        "Accepted requests whose caller went away",
        "As above, of those that were queued or computing; what they had cost is `dtesn_nodes_for_nobody_total`.",
    ),
    Metric(
        names.METRIC_REFUSALS,
        "counter",
        "requests",
        "Requests that were not accepted",
        "Too much work for this replica (`queue_full`, `queue_nodes`, `backlog`, `deadline`): add replicas or raise the bound. "
        "`too_large` is the client's, `breaker` and `dead` ours, `draining` the end of a pod.",
        {"reason": REFUSALS},
    ),
    Metric(
        names.METRIC_DIRECT,
        "counter",
        "requests",
        "Requests computed without batching",
        "`requested` by the caller (`enable_batching: false`, `/dtesn/process`), or `breaker`: the fallback while it is open.",
        {"reason": ("requested", "breaker")},
    ),
)
LATENCY: Final = (
    _latency(
        names.METRIC_REQUEST_SECONDS,
        "Accept to answer of each accepted request",
        "The latency that a service level is about. Its buckets carry the trace of a request as an exemplar (OpenMetrics, with traces on).",
    ),
    _latency(
        names.METRIC_QUEUE_SECONDS,
        "Queueing of each computed request",
        "High beside a low `dtesn_compute_seconds`: too few workers or too long a window.",
    ),
    _latency(
        names.METRIC_COMPUTE_SECONDS,
        "Dispatch to result of each computed request",
        "High: batches are too large (`maxBatchSeconds`, `targetBatchSize`) or the CPU is taken by others.",
    ),
    _latency(
        names.METRIC_WAIT_ERROR,
        "Predicted less actual wait of the first of each batch, its size",
        "How good admission's predictions are: large `under` means late answers, large `over` needless refusals.",
        {"prediction": ("over", "under")},
    ),
    Metric(
        names.METRIC_DEADLINE_MISSES,
        "counter",
        "requests",
        "Deadlines that passed or could no longer be met",
        "Accepted and not answered in time. Any lasting rate is worth a look: add replicas, or let clients wait longer.",
    ),
    Metric(
        names.METRIC_OLDEST_QUEUED,
        "gauge",
        "seconds",
        "Age of the oldest queued request; 0 with none",
        "Rising without bound: the workers do not get through, or are gone.",
        absent="until the manager has started",
    ),
)
BATCHING: Final = (
    Metric(
        names.METRIC_BATCHES,
        "counter",
        "batches",
        "Batches, by why they were closed",
        "`full` under load, `idle` and `window` below it; much `deadline` means that timeouts cut batches short, "
        "much `nodes` that inputs are large.",
        {"closed_by": CLOSED_BY},
    ),
    Metric(
        names.METRIC_BATCH_SIZE,
        "histogram",
        "items",
        "Items of each batch, direct runs too",
        "Its mean under load should come near `dtesn_batch_size_current`.",
        buckets=SIZE_BUCKETS,
    ),
    Metric(
        names.METRIC_BATCH_SIZE_CURRENT,
        "gauge",
        "items",
        "Limit on items per batch now in force",
        "Follows load and latency; pinned at `minBatchSize` or `maxBatchSize` it says that the bound is in the way.",
        absent="until the manager has started",
    ),
    Metric(
        names.METRIC_BATCH_SIZE_TARGET,
        "gauge",
        "items",
        "Size that the limit is derived from, before load",
        "Beside the limit: the difference is what load does.",
        absent="until the manager has started",
    ),
    Metric(
        names.METRIC_PENDING,
        "gauge",
        "requests",
        "Requests queued and not computing",
        "The signal to scale by.",
        absent="until the manager has started",
    ),
    Metric(
        names.METRIC_BATCH_UTILIZATION,
        "histogram",
        "ratio",
        "Items over places of each dynamic batch",
        "Places are forecast before the members are known: low means that arrivals did not come.",
        buckets=RATIO_BUCKETS,
    ),
    Metric(
        names.METRIC_ITEMS,
        "counter",
        "items",
        "Items of dynamic batches",
        "`rate` of it over `rate` of the places is the utilisation over any span.",
    ),
    Metric(names.METRIC_PLACES, "counter", "places", "Places of dynamic batches", "See `dtesn_batch_items_total`."),
    Metric(
        names.METRIC_BATCH_FILL,
        "gauge",
        "ratio",
        "Items over `maxBatchSize`, over the last batches",
        "Near 1 for long: the bound holds throughput down.",
        absent="until the first dynamic batch",
    ),
    Metric(
        names.METRIC_DEVICE_EFFICIENCY,
        "gauge",
        "ratio",
        "Node rate while busy over the best measured for that shape, over the last batches",
        "Low with a low batch size: small batches; low with large ones: the cores are taken by others.",
        absent="until the first complete batch",
    ),
    Metric(
        names.METRIC_IMPROVEMENT,
        "gauge",
        "ratio",
        "Throughput of the last batches over that of the same items one by one, less 1",
        "0.4 is 40 % more. Below 0 under load, batching costs more than it brings.",
        absent="until a baseline of that shape and a batch were measured",
    ),
    Metric(
        names.METRIC_BASELINE,
        "gauge",
        "nodes per second",
        "Measured rate without batching, for the last batches' items",
        "What the improvement is measured against; a fall means a slower machine.",
        absent="as the improvement",
    ),
    Metric(
        names.METRIC_BASELINE_SAMPLES,
        "gauge",
        "runs",
        "Runs of one that the baseline was fitted to",
        "Few: trust the improvement less.",
        absent="until the manager has started",
    ),
    Metric(
        names.METRIC_BASELINE_AGE,
        "gauge",
        "seconds",
        "Age of the baseline's last sample",
        "Old under steady load, since it is sampled on an idle worker: trust the improvement less.",
        absent="until the first sample",
    ),
    _latency(
        names.METRIC_BATCH_GAP,
        "Time that a worker had been idle before a batch although requests were queued",
        "What windows and the event loop cost: large beside a full queue, see `dtesn_loop_lag_seconds`.",
    ),
    _latency(
        names.METRIC_SLICE_SECONDS,
        "Mean slice of each batch",
        "How soon a batch lets go of what was cancelled, and answers what is done.",
    ),
    Metric(
        names.METRIC_NODES,
        "counter",
        "nodes",
        "Nodes computed",
        "Throughput in units of work, which requests are not. Over the busy seconds: the node rate.",
    ),
    Metric(
        names.METRIC_NODES_FOR_NOBODY,
        "counter",
        "nodes",
        "Nodes computed for requests that were gone before their answer",
        "Its share of `dtesn_nodes_total` is wasted: clients whose timeout is shorter than the one they send.",
    ),
)
LOAD: Final = (
    Metric(
        names.METRIC_LOAD_COMBINED,
        "gauge",
        "ratio",
        "Weighted load of the fresh sources",
        "What the batch size follows: grows below `lowLoadThreshold`, shrinks above `highLoadThreshold`.",
        absent="where no source has data",
    ),
    Metric(
        names.METRIC_LOAD,
        "gauge",
        "ratio",
        "Load by source",
        "Which source drives the combined load.",
        {"provider": "the names of the load sources"},
        absent="where that source has no data",
    ),
    Metric(
        names.METRIC_LOAD_AGE,
        "gauge",
        "seconds",
        "Age of each source's last reading",
        "Rising: the source is not answering. `GET /dtesn/batch_metrics` says why.",
        {"provider": "the names of the load sources"},
        absent="until that source's first reading",
    ),
    Metric(
        names.METRIC_LOAD_UP,
        "gauge",
        "0 or 1",
        "1 where the source has data now",
        "0 for long: the source is misconfigured or gone, and the batch size follows the others.",
        {"provider": "the names of the load sources"},
    ),
)
FAILURES: Final = (
    Metric(
        names.METRIC_BREAKER_STATE,
        "gauge",
        "0 or 1",
        "1 for the state that the circuit breaker is in",
        "`open`: batches failed one after another, requests run directly.",
        {"state": BREAKER_STATES},
        absent="until the manager has started",
    ),
    Metric(
        names.METRIC_BREAKER_TRANSITIONS,
        "counter",
        "changes",
        "Changes of the circuit breaker",
        "How often it opened, also between two scrapes.",
        {"to": BREAKER_STATES},
    ),
    Metric(
        names.METRIC_BISECTION_RUNS,
        "counter",
        "runs",
        "Further runs of batches that failed as a whole",
        "Batches that fail and are taken apart; the log names the request at fault.",
    ),
    Metric(
        names.METRIC_WORKER_RESTARTS,
        "counter",
        "workers",
        "Workers lost and replaced",
        "`died`: usually the kernel's out-of-memory killer, raise the memory limit; `hung`: killed by us after ten times its prediction.",
        {"reason": ("died", "hung")},
    ),
    Metric(
        names.METRIC_POLICY_FAILURES,
        "counter",
        "failures",
        "Policies that raised",
        "A strategy, load function or calculator of one's own has a fault; the log has its traceback.",
        {"policy": ("load", "strategy", "performance", "probe")},
    ),
    Metric(
        names.METRIC_RELOAD_ERRORS,
        "counter",
        "files",
        "Configuration files that were not taken",
        "The old settings are in force; `GET /config` says what is wrong.",
    ),
)
RESOURCES: Final = (
    Metric(
        names.METRIC_WORKER_BUSY,
        "counter",
        "seconds",
        "Seconds that each worker computed for requests",
        "Its `rate` is the share of time that worker is busy. A batch that failed as a whole counts for worker 0.",
        {"worker": "numbers from 0"},
    ),
    Metric(
        names.METRIC_COMPUTE_MEMORY,
        "gauge",
        "bytes",
        "Resident memory of the compute workers",
        "Beside the container's limit: the byte cap of a batch is 0.8 of what is left.",
        absent="where the system does not tell",
    ),
    _latency(
        names.METRIC_LOOP_LAG,
        "Lateness of a timer of the event loop, every half second",
        "High: the event loop's core is taken by others or by very large bodies; every answer waits for it.",
    ),
    Metric(
        names.METRIC_CONFIG_INFO,
        "info",
        "1",
        "The configuration in force",
        "Replicas with different hashes run different settings; `none`: no file.",
        {"hash": "the hash of the file in force, or `none`"},
    ),
)
GROUPS: Final[Mapping[str, tuple[Metric, ...]]] = {
    "Traffic": TRAFFIC,
    "Latency": LATENCY,
    "Batching": BATCHING,
    "Load": LOAD,
    "Failures": FAILURES,
    "Resources": RESOURCES,
}
METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for group in GROUPS.values() for metric in group}
