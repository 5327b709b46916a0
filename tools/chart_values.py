"""The chart's values: names, defaults, bounds and what each does. `chart.py` writes values.yaml and values.schema.json from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from dtesn_api import names
from dtesn_api.spec.workload import Logging

Map = dict[str, str]
Free = dict[str, Any]
Name = Annotated[str, Meta(pattern="^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=53)]  # Services bear it
Namespace = Annotated[str, Meta(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Port = Annotated[int, Meta(ge=1024, le=65535)]
OPT_OUT = f"{names.GROUP}/injection"  # label of a namespace, with the value `disabled`


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What every section has in common: unknown keys are refused."""


class Scope(Section, frozen=True):
    """Where the operator acts."""

    namespaces: Annotated[
        list[Namespace],
        Meta(
            description="Namespaces whose DTESNBatchers are reconciled; empty: all of the cluster. With namespaces the operator has Roles "
            "in these alone and no ClusterRole; injection then needs `webhook.certificates: certManager`."
        ),
    ] = []


class Crds(Section, frozen=True):
    """The CustomResourceDefinition."""

    enabled: Annotated[
        bool, Meta(description="Install and upgrade the CustomResourceDefinition with the release. Exactly one release of a cluster does.")
    ] = True
    keep: Annotated[bool, Meta(description="Keep it, and with it every DTESNBatcher, when the release is uninstalled.")] = True


class Image(Section, frozen=True):
    """The operator's image."""

    repository: Annotated[str, Meta(min_length=1, description="Image of the operator, without tag.")] = names.PART_OF
    tag: Annotated[str, Meta(description="Tag; empty: the chart's appVersion.")] = ""
    digest: Annotated[str, Meta(pattern="^(sha256:[0-9a-f]{64})?$", description="`sha256:...`; counts before the tag.")] = ""
    pull_policy: Annotated[Literal["Always", "IfNotPresent", "Never"], Meta(description="When the kubelet pulls it.")] = "IfNotPresent"


class SecretName(Section, frozen=True):
    """A Secret by name."""

    name: str


class ServiceAccount(Section, frozen=True):
    """The operator's ServiceAccount."""

    create: Annotated[bool, Meta(description="Create it. Otherwise `name` must exist.")] = True
    name: Annotated[str, Meta(max_length=253, description="Its name; empty: the release's full name.")] = ""
    annotations: Annotated[Map, Meta(description="Annotations of the ServiceAccount.")] = {}


class Rbac(Section, frozen=True):
    """Rights."""

    create: Annotated[bool, Meta(description="Create the operator's roles and bindings.")] = True
    aggregate: Annotated[
        bool,
        Meta(
            description="Add the DTESNBatcher to the cluster's `view`, `edit` and `admin` roles. "
            "Not with `scope.namespaces`, which makes no ClusterRole."
        ),
    ] = True


class IssuerRef(Section, frozen=True):
    """An issuer of cert-manager."""

    group: Annotated[str, Meta(min_length=1, description="Its API group.")] = "cert-manager.io"
    kind: Annotated[str, Meta(min_length=1, description="Issuer, ClusterIssuer, or a kind of the group's.")] = "ClusterIssuer"
    name: Annotated[str, Meta(description="Issuer of the webhook's certificate; empty: a self-signed one of the release's own.")] = ""


class NamespaceSelector(Section, frozen=True):
    """A selector of namespaces by their labels."""

    match_labels: Annotated[Map, Meta(description="Labels that a namespace must have.")] = {}
    match_expressions: Annotated[list[Free], Meta(description="Further conditions on its labels.")] = []


class Webhook(Section, frozen=True):
    """Injection of the sidecar into labelled pods."""

    enabled: Annotated[bool, Meta(description=f"Inject the sidecar into pods labelled `{names.LABEL_INJECT}: NAME`.")] = True
    failure_policy: Annotated[
        Literal["Ignore", "Fail"],
        Meta(description="What happens to such a pod while the operator is away: `Ignore` starts it without sidecar, `Fail` refuses it."),
    ] = "Ignore"
    timeout_seconds: Annotated[int, Meta(ge=1, le=30, description="How long the API server waits for the answer.")] = 3
    port: Annotated[Port, Meta(description="Port of the operator's pods.")] = 9443
    certificates: Annotated[
        Literal["selfManaged", "certManager"],
        Meta(description="Who makes the certificates: the operator itself, or cert-manager (which must be installed)."),
    ] = "selfManaged"
    issuer_ref: Annotated[IssuerRef, Meta(description="With `certManager`: the issuer.")] = IssuerRef()
    namespace_selector: Annotated[
        NamespaceSelector,
        Meta(description=f"Narrows the namespaces further. Those labelled `{OPT_OUT}: disabled` are left out in any case."),
    ] = NamespaceSelector()


class AdmissionPolicy(Section, frozen=True):
    """The ValidatingAdmissionPolicy."""

    enabled: Annotated[
        bool,
        Meta(
            description="Refuse DTESNBatchers of authors who may not create Deployments in that namespace, "
            "and any in the operator's own namespace."
        ),
    ] = True


class DisruptionBudget(Section, frozen=True):
    """Of the operator itself."""

    enabled: Annotated[bool, Meta(description="Keep one operator pod during drains, where there are two or more.")] = True


class PodMonitor(Section, frozen=True):
    """Of the operator's own metrics."""

    enabled: Annotated[bool, Meta(description="Scrape the operator by the Prometheus operator, whose CRDs must be installed.")] = False
    labels: Annotated[Map, Meta(description="Labels that your Prometheus selects PodMonitors by.")] = {}
    interval: Annotated[str, Meta(pattern="^([0-9]+(ms|s|m|h))+$", description="Time between scrapes.")] = "30s"


class Dashboard(Section, frozen=True):
    """The Grafana dashboard."""

    enabled: Annotated[bool, Meta(description="A ConfigMap with the Grafana dashboard of the batchers.")] = False
    labels: Annotated[Map, Meta(description="Labels that Grafana's sidecar finds dashboards by.")] = field(
        default_factory=lambda: {"grafana_dashboard": "1"}
    )
    annotations: Annotated[Map, Meta(description="Annotations, such as the folder.")] = {}


class Monitoring(Section, frozen=True):
    """Monitoring of the operator."""

    pod_monitor: PodMonitor = PodMonitor()
    dashboard: Dashboard = Dashboard()
    prometheus_namespaces: Annotated[
        list[Namespace], Meta(description="Namespaces of Prometheus, which the NetworkPolicies of DTESNBatchers let in.")
    ] = []


class Tests(Section, frozen=True):
    """`helm test`."""

    enabled: Annotated[
        bool, Meta(description="`helm test` applies a small DTESNBatcher, sends it a request through its Service, and removes it.")
    ] = True
    namespace: Annotated[
        str,
        Meta(
            pattern="^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
            max_length=63,
            description="Namespace of that DTESNBatcher, which must exist; empty: the first of `scope.namespaces`, "
            "or a namespace that the test makes and removes.",
        ),
    ] = ""
    timeout_seconds: Annotated[int, Meta(ge=10, le=3600, description="How long it may take in all.")] = 180


class Values(Section, frozen=True):
    """All values."""

    name_override: Annotated[Name, Meta(description="Instead of the chart's name in names of objects.")] = ""
    fullname_override: Annotated[Name, Meta(description="Instead of release and chart name in names of objects.")] = ""
    scope: Scope = Scope()
    crds: Crds = Crds()
    image: Image = Image()
    sidecar_image: Annotated[
        str, Meta(description="Image of the sidecars of DTESNBatchers that name none, with tag or digest; empty: the operator's image.")
    ] = ""
    image_pull_secrets: Annotated[list[SecretName], Meta(description="Secrets to pull the operator's image with: `[{name: ...}]`.")] = []
    replicas: Annotated[
        int, Meta(ge=0, le=9, description="Operator pods: one acts, the others wait, and all of them serve the webhook.")
    ] = 2
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least level that the operator logs.")] = (
        Logging().level
    )
    log_format: Annotated[Literal["json", "text"], Meta(description="One JSON object or one readable line per record.")] = Logging().format
    port: Annotated[Port, Meta(description="Port of the operator's health and metrics.")] = names.DEFAULT_PORT
    extra_env: Annotated[list[Free], Meta(description="More environment variables of the operator's container.")] = []
    resources: Annotated[Free, Meta(description="Requests and limits of the operator's container.")] = field(
        default_factory=lambda: {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    )
    service_account: ServiceAccount = ServiceAccount()
    rbac: Rbac = Rbac()
    webhook: Webhook = Webhook()
    admission_policy: AdmissionPolicy = AdmissionPolicy()
    disruption_budget: DisruptionBudget = DisruptionBudget()
    monitoring: Monitoring = Monitoring()
    pod_labels: Annotated[Map, Meta(description="More labels of the operator's pods.")] = {}
    pod_annotations: Annotated[Map, Meta(description="Annotations of the operator's pods.")] = {}
    node_selector: Annotated[Map, Meta(description="Node selector of the operator's pods.")] = {}
    tolerations: Annotated[list[Free], Meta(description="Tolerations of the operator's pods.")] = []
    affinity: Annotated[Free, Meta(description="Affinity of the operator's pods; empty: on different nodes where that can be.")] = {}
    topology_spread_constraints: Annotated[list[Free], Meta(description="Topology spread constraints of the operator's pods.")] = []
    priority_class_name: Annotated[str, Meta(max_length=253, description="Priority class of the operator's pods.")] = ""
    common_labels: Annotated[Map, Meta(description="Labels of every object of the release.")] = {}
    extra_objects: Annotated[
        list[Free | str],
        Meta(
            description="More manifests of the release, templated where they are text. No DTESNBatcher: "
            "its kind is not there yet at the first install."
        ),
    ] = []
    tests: Tests = Tests()
