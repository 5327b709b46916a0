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

    type: Condition
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: Annotated[str, Meta(max_length=32_768)]
    last_transition_time: str
    observed_generation: int


class Observed(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the pods reported, in two digits; absent where they are silent."""

    load: float | None = None
    batch_size: float | None = None
    requests_per_second: float | None = None
    throughput_improvement: float | None = None
    pending: int | None = None


class DTESNBatcherStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the operator reports of one resource."""

    observed_generation: int = 0
    conditions: tuple[StatusCondition, ...] = ()
    replicas: int = 0
    ready_replicas: int = 0
    selector: str = ""
    url: str = ""
    image: str = ""
    config_hash: str = ""
    observed: Observed | None = None
