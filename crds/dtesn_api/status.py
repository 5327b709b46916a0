"""`status` of a DTESNBatcher: the conditions and their reasons, as enums, and the struct that the operator writes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct


class Condition(StrEnum):
    """Types of conditions."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    LOAD_AVAILABLE = "LoadAvailable"
    PAUSED = "Paused"


class Reason(StrEnum):
    """Reasons of conditions, in the CamelCase that Kubernetes wants."""

    AVAILABLE = "Available"
    TOO_FEW_REPLICAS = "TooFewReplicas"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    CONFIG_IN_PROGRESS = "ConfigInProgress"
    UP_TO_DATE = "UpToDate"
    AS_EXPECTED = "AsExpected"
    SPEC_INVALID = "SpecInvalid"
    TEMPLATE_INVALID = "TemplateInvalid"
    NAME_CONFLICT = "NameConflict"
    OBJECT_REFUSED = "ObjectRefused"
    KIND_MISSING = "KindMissing"
    REPLICA_FAILURE = "ReplicaFailure"
    PODS_FAILING = "PodsFailing"
    INJECTION_MISSED = "InjectionMissed"
    FRESH_READING = "FreshReading"
    NO_DATA = "NoData"
    PODS_SILENT = "PodsSilent"
    PAUSED = "Paused"
    ACTIVE = "Active"


class StatusCondition(Struct, frozen=True, kw_only=True, rename="camel"):
    """One condition as Kubernetes's `metav1.Condition` has it."""

    type: Annotated[Condition, Meta(description="Ready, Progressing, Degraded, LoadAvailable or Paused.")]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether it holds; Unknown where nobody can say.")]
    reason: Annotated[Reason, Meta(description="Why, in one CamelCase word for programs.")]
    message: Annotated[str, Meta(max_length=32_768, description="Why, in a sentence for people.")]
    last_transition_time: Annotated[str, Meta(description="When the status last changed, in RFC 3339.")]
    observed_generation: Annotated[int, Meta(description="Generation of the spec that this is about.")]


class Observed(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the pods reported, in two digits; absent where they are silent."""

    load: Annotated[float | None, Meta(description="Load from 0 to 1, a mean over the pods.")] = None
    batch_size: Annotated[float | None, Meta(description="Items per batch, a mean over the pods.")] = None
    requests_per_second: Annotated[float | None, Meta(description="Requests answered per second, the sum of the pods.")] = None
    throughput_improvement: Annotated[
        float | None, Meta(description="Percent by which batching raises the throughput, a mean over the pods.")
    ] = None
    pending: Annotated[int | None, Meta(description="Queued requests, the sum of the pods.")] = None


class DTESNBatcherStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the operator reports of one resource."""

    observed_generation: Annotated[int, Meta(description="Generation of the spec that was last acted upon.")] = 0
    conditions: Annotated[
        tuple[StatusCondition, ...], Meta(max_length=16, extra={"key": "type"}, description="The conditions, one of each type.")
    ] = ()
    replicas: Annotated[int, Meta(description="Pods that there are.")] = 0
    ready_replicas: Annotated[int, Meta(description="Pods that are ready.")] = 0
    selector: Annotated[str, Meta(description="Label selector of the pods, for autoscalers.")] = ""
    url: Annotated[str, Meta(description="URL of the Service within the cluster.")] = ""
    image: Annotated[str, Meta(description="Image of the sidecar in the pods.")] = ""
    config_hash: Annotated[str, Meta(description="SHA-256 of the live settings that every pod should report.")] = ""
    observed: Annotated[Observed | None, Meta(description="What the pods reported; absent where they are silent.")] = None
