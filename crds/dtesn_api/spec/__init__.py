"""The specification of a DTESNBatcher: one frozen struct per section, and reading it from a manifest.

snake_case in Python, camelCase on the wire. Constructing any of them checks bounds and rules; `SpecInvalid` has every
problem. What a section holds lives in its module; how it is read, in `dtesn_api.reading`.
"""

from dtesn_api.problems import Problem, SpecInvalid
from dtesn_api.schema import to_wire
from dtesn_api.spec.batching import BatchConfiguration
from dtesn_api.spec.load import (
    EngineSource,
    LoadConfiguration,
    NvmlSource,
    PrometheusAuth,
    PrometheusSource,
    PrometheusTls,
    QueueSource,
    SecretReference,
    SystemSource,
)
from dtesn_api.spec.model import ClaimPath, ConfigMapKey, ModelConfiguration, ReadoutSource
from dtesn_api.spec.root import DTESNBatcherSpec, decode_spec, parse_manifest, spec_of
from dtesn_api.spec.workload import (
    Autoscaling,
    ComputeResources,
    DisruptionBudget,
    EnvironmentVariable,
    Gpu,
    Image,
    Injection,
    Logging,
    Monitoring,
    NetworkPolicy,
    PullSecret,
    Service,
    SidecarConfiguration,
    Strategy,
)

__all__ = [
    "Autoscaling",
    "BatchConfiguration",
    "ClaimPath",
    "ComputeResources",
    "ConfigMapKey",
    "DTESNBatcherSpec",
    "DisruptionBudget",
    "EngineSource",
    "EnvironmentVariable",
    "Gpu",
    "Image",
    "Injection",
    "LoadConfiguration",
    "Logging",
    "ModelConfiguration",
    "Monitoring",
    "NetworkPolicy",
    "NvmlSource",
    "Problem",
    "PrometheusAuth",
    "PrometheusSource",
    "PrometheusTls",
    "PullSecret",
    "QueueSource",
    "ReadoutSource",
    "SecretReference",
    "Service",
    "SidecarConfiguration",
    "SpecInvalid",
    "Strategy",
    "SystemSource",
    "decode_spec",
    "parse_manifest",
    "spec_of",
    "to_wire",
]
