"""Names that users, tools and the two halves of the system see, each written once.

Fields are named by the spec (`spec/`), bodies by `wire.py`; error codes by the sidecar's `errors.py`.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "dtesn.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DTESNBatcher"
PLURAL: Final = "dtesnbatchers"
SINGULAR: Final = "dtesnbatcher"
SHORT_NAMES: Final = ("dtesn", "dtb")
CATEGORIES: Final = ("all",)

PART_OF: Final = "dtesn-batcher"
FIELD_MANAGER: Final = "dtesn-operator"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_INJECT: Final = f"{GROUP}/inject"
ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"
ANNOTATION_SETTINGS: Final = f"{GROUP}/settings"  # of an injected pod: the live settings at its admission
ANNOTATION_TEMPLATE_HASH: Final = f"{GROUP}/template-hash"  # of a Deployment: its pod template but for the image

CONTAINER: Final = "dtesn-sidecar"
PORT_NAME: Final = "http"  # of the Service
CONTAINER_PORT_NAME: Final = "dtesn-http"  # of the pod, where an application may have a port named http
DEFAULT_PORT: Final = 8080
NAME_MAX_LENGTH: Final = 52

CONFIG_FOLDER: Final = "/etc/dtesn/config"
CONFIG_FILE: Final = "batcher.yaml"
SECRETS_FOLDER: Final = "/etc/dtesn/secrets"
READOUT_FOLDER: Final = "/etc/dtesn/readout"  # of a ConfigMap its key, of a claim its path within

ENV_PREFIX: Final = "DTESN_"
ENV_OPERATOR_IMAGE: Final = "DTESN_SIDECAR_IMAGE"

HEADER_REQUEST_ID: Final = "X-Request-ID"
HEADER_TRACEPARENT: Final = "traceparent"
HEADER_SERVER_TIMING: Final = "Server-Timing"
HEADER_RETRY_AFTER: Final = "Retry-After"
MEDIA_EVENTS: Final = "text/event-stream"
MEDIA_JSON: Final = "application/json"
MEDIA_NDJSON: Final = "application/x-ndjson"
MEDIA_PROBLEM: Final = "application/problem+json"

METRIC_REQUESTS: Final = "dtesn_requests_total"
METRIC_QUEUE_SECONDS: Final = "dtesn_queue_seconds"
METRIC_COMPUTE_SECONDS: Final = "dtesn_compute_seconds"
METRIC_REQUEST_SECONDS: Final = "dtesn_request_seconds"
METRIC_BATCH_SIZE: Final = "dtesn_batch_size"
METRIC_BATCH_UTILIZATION: Final = "dtesn_batch_utilization_ratio"
METRIC_BATCH_SIZE_CURRENT: Final = "dtesn_batch_size_current"
METRIC_BATCH_SIZE_TARGET: Final = "dtesn_batch_size_target"
METRIC_PENDING: Final = "dtesn_pending_requests"
METRIC_LOAD: Final = "dtesn_load_ratio"
METRIC_LOAD_COMBINED: Final = "dtesn_load_combined_ratio"
METRIC_LOAD_AGE: Final = "dtesn_load_age_seconds"
METRIC_BREAKER_STATE: Final = "dtesn_breaker_state"
METRIC_LOAD_UP: Final = "dtesn_load_up"
METRIC_BASELINE: Final = "dtesn_baseline_nodes_per_second"
METRIC_IMPROVEMENT: Final = "dtesn_throughput_improvement_ratio"
METRIC_BASELINE_SAMPLES: Final = "dtesn_baseline_samples"
METRIC_BASELINE_AGE: Final = "dtesn_baseline_age_seconds"
METRIC_BATCH_FILL: Final = "dtesn_batch_fill_ratio"
METRIC_DEVICE_EFFICIENCY: Final = "dtesn_device_efficiency_ratio"
METRIC_COMPUTE_MEMORY: Final = "dtesn_compute_memory_bytes"
METRIC_CONFIG_INFO: Final = "dtesn_config_info"
METRIC_BATCHES: Final = "dtesn_batches_total"
METRIC_BREAKER_TRANSITIONS: Final = "dtesn_breaker_transitions_total"
METRIC_DIRECT: Final = "dtesn_direct_requests_total"
METRIC_DEADLINE_MISSES: Final = "dtesn_deadline_misses_total"
METRIC_CANCELLATIONS: Final = "dtesn_cancellations_total"
METRIC_NODES: Final = "dtesn_nodes_total"
METRIC_RELOAD_ERRORS: Final = "dtesn_config_reload_errors_total"
METRIC_BATCH_GAP: Final = "dtesn_batch_gap_seconds"
METRIC_LOOP_LAG: Final = "dtesn_loop_lag_seconds"
METRIC_SLICE_SECONDS: Final = "dtesn_slice_seconds"
METRIC_WORKER_BUSY: Final = "dtesn_worker_busy_seconds_total"
METRIC_WAIT_ERROR: Final = "dtesn_wait_error_seconds"
METRIC_OLDEST_QUEUED: Final = "dtesn_oldest_queued_seconds"
METRIC_REFUSALS: Final = "dtesn_refusals_total"
METRIC_NODES_FOR_NOBODY: Final = "dtesn_nodes_for_nobody_total"
METRIC_BISECTION_RUNS: Final = "dtesn_bisection_runs_total"
METRIC_WORKER_RESTARTS: Final = "dtesn_worker_restarts_total"
METRIC_ITEMS: Final = "dtesn_batch_items_total"
METRIC_PLACES: Final = "dtesn_batch_places_total"
METRIC_HTTP_RESPONSES: Final = "dtesn_http_responses_total"
METRIC_RPC_CALLS: Final = "dtesn_grpc_calls_total"
METRIC_DISCONNECTS: Final = "dtesn_http_disconnects_total"
METRIC_POLICY_FAILURES: Final = "dtesn_policy_failures_total"

METRIC_OPERATOR_RECONCILES: Final = "dtesn_operator_reconciles_total"
METRIC_OPERATOR_SECONDS: Final = "dtesn_operator_reconcile_seconds"
METRIC_OPERATOR_EVENTS: Final = "dtesn_operator_events_total"
METRIC_OPERATOR_QUEUE: Final = "dtesn_operator_queue_depth"
METRIC_OPERATOR_EVENT_AGE: Final = "dtesn_operator_last_event_age_seconds"
METRIC_OPERATOR_LEADING: Final = "dtesn_operator_leading"
METRIC_OPERATOR_RESOURCES: Final = "dtesn_operator_resources"
METRIC_OPERATOR_GHOSTS: Final = "dtesn_operator_ghosts_total"
