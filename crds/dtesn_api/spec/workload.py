"""The sections that say how the sidecar runs in a cluster. Of these the sidecar itself reads only `spec.sidecar`.

The operator reads the rest; the sidecar checks it, so that the file one serves on a laptop is the file one applies.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from dtesn_api.reading import Section
from dtesn_api.schema import Rule
from dtesn_api.spec.kinds import OPERATOR, FreeForm, HttpUrl, IntOrPercent, IntOrQuantity, ObjectName, Port, PromQL

ResourceName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?\Z",
        extra={"expected": "the name of a resource such as nvidia.com/gpu"},
    ),
]
Resources = dict[ResourceName, IntOrQuantity]


class PullSecret(Section, frozen=True, kw_only=True):
    """A Secret with a registry's credentials."""

    name: Annotated[ObjectName, Meta(description="Name of the Secret.")]


class Image(Section, frozen=True, kw_only=True):
    """The sidecar's image. Without it the operator's own choice is taken once and kept."""

    repository: Annotated[
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=255,
                pattern=r"^[a-zA-Z0-9][-._:/a-zA-Z0-9]*\Z",
                extra={"expected": "an image repository such as registry.example/dtesn-batcher, without tag"},
            ),
        ]
        | None,
        Meta(description="Repository of the image, without the tag."),
    ] = None
    tag: Annotated[
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                pattern=r"^[_a-zA-Z0-9][-._a-zA-Z0-9]*(@sha256:[0-9a-f]{64})?\Z",
                extra={"expected": "an image tag, with or without a sha256 digest"},
            ),
        ]
        | None,
        Meta(description="Tag of the image, also as TAG@sha256:DIGEST."),
    ] = None
    pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None, Meta(description="When the node pulls; absent = Kubernetes's own default.")
    ] = None
    pull_secrets: Annotated[
        tuple[PullSecret, ...], Meta(max_length=16, extra={"key": "name"}, description="Secrets for the registry, at most 16.")
    ] = ()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="image: repository and tag together",
            fields=("repository", "tag"),
            holds=lambda s: (s.repository is None) == (s.tag is None),
            sentence="given together with {tag}",
            cel="has(self.repository) == has(self.tag)",
        ),
    )


class Gpu(Section, frozen=True, kw_only=True):
    """GPUs for each pod, by device plugin or by a DRA claim."""

    count: Annotated[int, Meta(ge=0, le=16, description="GPUs per pod; 0 = none asked for.")] = 0
    resource_name: Annotated[
        ResourceName | None,
        Meta(description="Extended resource of the device plugin; absent = nvidia.com/gpu, unless a device class is given."),
    ] = None
    device_class_name: Annotated[ObjectName | None, Meta(description="Device class of a DRA claim.")] = None
    runtime_class_name: Annotated[ObjectName | None, Meta(description="Runtime class of the pods, where the cluster needs one.")] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="gpu: device plugin or claim",
            fields=("resource_name", "device_class_name"),
            holds=lambda s: s.resource_name is None or s.device_class_name is None,
            sentence="absent where {device_class_name} is given",
            cel="!(has(self.resourceName) && has(self.deviceClassName))",
        ),
    )


class ComputeResources(Section, frozen=True, kw_only=True):
    """The container's resources."""

    requests: Annotated[Resources, Meta(max_length=16, description="Resources that the scheduler sets aside.")] = field(
        default_factory=dict
    )
    limits: Annotated[Resources, Meta(max_length=16, description="Resources that the container may use at most.")] = field(
        default_factory=dict
    )


class EnvironmentVariable(Section, frozen=True, kw_only=True):
    """An environment variable of the sidecar's container."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=253,
            pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*\Z",
            extra={"expected": "the name of an environment variable"},
            description="Name of the variable.",
        ),
    ]
    value: Annotated[Annotated[str, Meta(max_length=32_768)] | None, Meta(description="Its value.")] = None
    value_from: Annotated[FreeForm | None, Meta(description="Where its value comes from, as in a pod.")] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="env: value or valueFrom",
            fields=("value_from", "value"),
            holds=lambda s: s.value is None or s.value_from is None,
            sentence="absent where {value} is given",
            cel="!(has(self.value) && has(self.valueFrom))",
        ),
    )


class Logging(Section, frozen=True, kw_only=True):
    """The sidecar's log."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least level that is written.")] = "info"
    format: Annotated[Literal["json", "text"], Meta(description="One JSON object or one readable line per record.")] = "json"


class SidecarConfiguration(Section, frozen=True, kw_only=True):
    """The sidecar's own process and container."""

    port: Annotated[Port, Meta(description="Port of HTTP.")] = 8080
    resources: Annotated[ComputeResources, Meta(extra=OPERATOR, description="Requests and limits of the container.")] = ComputeResources()
    env: Annotated[
        tuple[EnvironmentVariable, ...],
        Meta(max_length=64, extra={"key": "name", **OPERATOR}, description="Further environment variables, at most 64."),
    ] = ()
    drain_delay_seconds: Annotated[
        int, Meta(ge=0, le=600, description="Seconds of service after readiness has failed, since endpoints lag behind it.")
    ] = 5
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=1_073_741_824, description="Bytes of a request's body beyond which the answer is 413.")
    ] = 8_388_608
    logging: Annotated[Logging, Meta(description="Level and form of the log.")] = Logging()


class Service(Section, frozen=True, kw_only=True):
    """The Service before the pods."""

    type: Annotated[Literal["ClusterIP", "NodePort", "LoadBalancer"], Meta(description="Type of the Service.")] = "ClusterIP"
    port: Annotated[Port, Meta(description="Port of the Service.")] = 80


class Autoscaling(Section, frozen=True, kw_only=True):
    """Scaling of the resource by an HPA or by KEDA."""

    enabled: Annotated[bool, Meta(description="Whether something else than `spec.replicas` by hand sets the number of pods.")] = False
    via: Annotated[Literal["hpa", "keda"], Meta(description="A HorizontalPodAutoscaler, or a ScaledObject of KEDA.")] = "hpa"
    min_replicas: Annotated[int, Meta(ge=0, le=1000, description="The fewest pods; 0 needs KEDA and an activation query.")] = 1
    max_replicas: Annotated[int, Meta(ge=1, le=1000, description="The most pods.")] = 10
    target: Annotated[
        Literal["load", "pendingPerPod", "cpu"],
        Meta(description="What is held at the value: the combined load, the pending requests per pod, or the sidecar's CPU."),
    ] = "load"
    value: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)] | None,
        Meta(description="Value to hold: a ratio for load and cpu, a number for pendingPerPod; absent = 0.7, or 10 for pendingPerPod."),
    ] = None
    prometheus_url: Annotated[HttpUrl | None, Meta(description="Prometheus that KEDA asks for load and pending requests.")] = None
    activation_query: Annotated[
        PromQL | None, Meta(description="PromQL that is above 0 when the first pod is needed; it must not depend on pods being there.")
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="replicas: min <= max",
            fields=("min_replicas", "max_replicas"),
            holds=lambda s: s.min_replicas <= s.max_replicas,
            sentence="at most {max_replicas}",
            cel="self.minReplicas <= self.maxReplicas",
        ),
        Rule(
            name="scale to zero needs keda",
            fields=("min_replicas", "via", "activation_query"),
            holds=lambda s: s.min_replicas > 0 or (s.via == "keda" and s.activation_query is not None),
            sentence="at least 1 unless {via} is 'keda' and {activation_query} is given",
            cel="self.minReplicas > 0 || (self.via == 'keda' && has(self.activationQuery))",
        ),
        Rule(
            name="keda needs prometheus",
            fields=("prometheus_url", "enabled", "via", "target"),
            holds=lambda s: not s.enabled or s.via != "keda" or s.target == "cpu" or s.prometheus_url is not None,
            sentence="given where {enabled} is true, {via} is 'keda' and {target} is not 'cpu'",
            cel="!self.enabled || self.via != 'keda' || self.target == 'cpu' || has(self.prometheusUrl)",
        ),
        Rule(
            name="activation needs prometheus",
            fields=("activation_query", "prometheus_url"),
            holds=lambda s: s.activation_query is None or s.prometheus_url is not None,
            sentence="absent, or given together with {prometheus_url}",
            cel="!has(self.activationQuery) || has(self.prometheusUrl)",
        ),
        Rule(
            name="a ratio is at most 1",
            fields=("value", "target"),
            holds=lambda s: s.value is None or s.target == "pendingPerPod" or s.value <= 1,
            sentence="at most 1 where {target} is 'load' or 'cpu'",
            cel="!has(self.value) || self.target == 'pendingPerPod' || self.value <= 1.0",
        ),
    )


class Strategy(Section, frozen=True, kw_only=True):
    """The rolling update. Absent values: 0 and 1; with GPUs 1 and 0, since a surge pod would wait for a GPU."""

    max_unavailable: Annotated[IntOrPercent | None, Meta(description="Pods that may be missing during an update.")] = None
    max_surge: Annotated[IntOrPercent | None, Meta(description="Pods that may be there in addition during an update.")] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="strategy: something must give",
            fields=("max_unavailable", "max_surge"),
            holds=lambda s: not (s.max_unavailable in (0, "0%") and s.max_surge in (0, "0%")),
            sentence="above 0 where {max_surge} is 0",
            cel="!(has(self.maxUnavailable) && has(self.maxSurge) && string(self.maxUnavailable) in ['0', '0%'] "
            "&& string(self.maxSurge) in ['0', '0%'])",
        ),
    )


class Injection(Section, frozen=True, kw_only=True):
    """Injection of the sidecar into other workloads' pods."""

    enabled: Annotated[bool, Meta(description="Whether pods labelled `dtesn.dev/inject: NAME` get the sidecar.")] = False


class Monitoring(Section, frozen=True, kw_only=True):
    """How Prometheus finds the pods."""

    pod_monitor: Annotated[bool, Meta(description="Create a PodMonitor, where its kind is installed.")] = False
    scrape_annotations: Annotated[bool, Meta(description="Annotate the pods with prometheus.io/scrape, port and path.")] = False


class NetworkPolicy(Section, frozen=True, kw_only=True):
    """Restriction of the pods' traffic."""

    enabled: Annotated[bool, Meta(description="Create a NetworkPolicy for ingress.")] = False
    from_: Annotated[
        tuple[FreeForm, ...], Meta(max_length=32, description="Peers that may reach the sidecar's port, as in a NetworkPolicy, at most 32.")
    ] = ()
    egress: Annotated[
        Annotated[tuple[FreeForm, ...], Meta(max_length=32)] | None,
        Meta(
            description="Egress rules, as in a NetworkPolicy, at most 32; port 53 and the load sources' ports are added. "
            "Absent = egress is not restricted."
        ),
    ] = None


class DisruptionBudget(Section, frozen=True, kw_only=True):
    """Protection against voluntary disruption."""

    enabled: Annotated[bool, Meta(description="Create a PodDisruptionBudget that lets one pod at a time go.")] = False
