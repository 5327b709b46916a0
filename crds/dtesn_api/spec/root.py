"""`DTESNBatcherSpec`, the whole of `spec`, and reading it from a manifest.

Files, environment variables and flags are the sidecar's (`dtesn_sidecar.config`); here are objects in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from dtesn_api.names import API_VERSION, CONTAINER, KIND, NAME_MAX_LENGTH
from dtesn_api.problems import Problem, SpecInvalid, missing, problem
from dtesn_api.reading import Section, read
from dtesn_api.schema import Rule
from dtesn_api.spec.batching import BatchConfiguration
from dtesn_api.spec.kinds import LIVE, OPERATOR, RESTART, FreeForm
from dtesn_api.spec.load import LoadConfiguration
from dtesn_api.spec.model import ModelConfiguration
from dtesn_api.spec.workload import (
    Autoscaling,
    DisruptionBudget,
    Gpu,
    Image,
    Injection,
    Monitoring,
    NetworkPolicy,
    Service,
    SidecarConfiguration,
    Strategy,
)

_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_NAME_EXPECTED = f"a DNS-1035 label: 1 to {NAME_MAX_LENGTH} lower-case letters, digits and '-', a letter first, no '-' last"


def _own_container_is_free(spec: Any) -> bool:
    """No container of the template bears the sidecar's name. A template of a wrong form is not this rule's matter."""
    pod = (spec.template or {}).get("spec")
    if not isinstance(pod, Mapping):
        return True
    for group in ("containers", "initContainers"):
        containers = pod.get(group)
        if isinstance(containers, list) and any(isinstance(c, Mapping) and c.get("name") == CONTAINER for c in containers):
            return False
    return True


class DTESNBatcherSpec(Section, frozen=True, kw_only=True):
    """Everything that a DTESNBatcher says. All defaults together are a working batcher on the CPU."""

    replicas: Annotated[int, Meta(ge=0, le=1000, extra=OPERATOR, description="Pods, unless autoscaling sets their number.")] = 2
    paused: Annotated[bool, Meta(extra=OPERATOR, description="Leave everything owned by the resource as it is.")] = False
    image: Annotated[Image | None, Meta(extra=OPERATOR, description="The sidecar's image; absent = the operator's choice, kept.")] = None
    dynamic_batching: Annotated[bool, Meta(extra=RESTART, description="false: every request is computed by itself.")] = True
    model: Annotated[ModelConfiguration, Meta(extra=RESTART, description="The network that is served.")] = ModelConfiguration()
    backend: Annotated[
        Literal["auto", "numpy", "cupy"],
        Meta(extra=RESTART, description="Array library: CuPy on a GPU, NumPy on the CPU; auto takes CuPy where a device is present."),
    ] = "auto"
    gpu: Annotated[Gpu, Meta(extra=OPERATOR, description="GPUs for each pod.")] = Gpu()
    batching: Annotated[BatchConfiguration, Meta(extra=LIVE, description="How requests become batches.")] = BatchConfiguration()
    load: Annotated[LoadConfiguration, Meta(extra=LIVE, description="Where the server's load is read.")] = LoadConfiguration()
    sidecar: Annotated[SidecarConfiguration, Meta(extra=RESTART, description="The sidecar's process and container.")] = (
        SidecarConfiguration()
    )
    service: Annotated[Service, Meta(extra=OPERATOR, description="The Service before the pods.")] = Service()
    autoscaling: Annotated[Autoscaling, Meta(extra=OPERATOR, description="Scaling by an HPA or by KEDA.")] = Autoscaling()
    template: Annotated[
        FreeForm | None,
        Meta(extra=OPERATOR, description="Pod template: application containers beside the sidecar, node selector, tolerations and so on."),
    ] = None
    strategy: Annotated[Strategy, Meta(extra=OPERATOR, description="The rolling update.")] = Strategy()
    injection: Annotated[Injection, Meta(extra=OPERATOR, description="Injection into other workloads' pods.")] = Injection()
    monitoring: Annotated[Monitoring, Meta(extra=OPERATOR, description="How Prometheus finds the pods.")] = Monitoring()
    network_policy: Annotated[NetworkPolicy, Meta(extra=OPERATOR, description="Restriction of the pods' traffic.")] = NetworkPolicy()
    disruption_budget: Annotated[DisruptionBudget, Meta(extra=OPERATOR, description="Protection against voluntary disruption.")] = (
        DisruptionBudget()
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="gpu needs a capable backend",
            fields=("gpu.count", "backend"),
            holds=lambda s: s.gpu.count == 0 or s.backend != "numpy",
            sentence="0 where {backend} is 'numpy', which computes on the CPU",
            cel="self.gpu.count == 0 || self.backend != 'numpy'",
        ),
        Rule(
            name="a request fits into the queue",
            fields=("model.max_nodes", "batching.max_queue_nodes"),
            holds=lambda s: s.model.max_nodes <= s.batching.max_queue_nodes,
            sentence="at most {batching.max_queue_nodes}, or a large request would never be admitted",
            cel="self.model.maxNodes <= self.batching.maxQueueNodes",
        ),
        Rule(
            name="a request fits into a batch",
            fields=("model.max_nodes", "batching.max_batch_nodes"),
            holds=lambda s: s.model.max_nodes <= s.batching.max_batch_nodes,
            sentence="at most {batching.max_batch_nodes}, the bound on a batch's memory",
            cel="self.model.maxNodes <= self.batching.maxBatchNodes",
        ),
        Rule(
            name="the sidecar's container is ours",
            fields=("template",),
            holds=_own_container_is_free,
            sentence=f"without a container named {CONTAINER}, which is the sidecar's own",
            cel="!has(self.template) || !has(self.template.spec) || ("
            f"(!has(self.template.spec.containers) || self.template.spec.containers.all(c, !has(c.name) || c.name != '{CONTAINER}')) && "
            "(!has(self.template.spec.initContainers) || "
            f"self.template.spec.initContainers.all(c, !has(c.name) || c.name != '{CONTAINER}')))",
        ),
    )


def decode_spec(document: object) -> DTESNBatcherSpec:
    """The spec alone, from JSON bytes or from objects as a parser gives them. Raises `SpecInvalid` with every problem."""
    if isinstance(document, (bytes, str)):
        try:
            document = msgspec.json.decode(document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SpecInvalid([problem("spec", "the text", f"a JSON document ({error})")]) from error
    return read(DTESNBatcherSpec, document, "spec")


def spec_of(document: object) -> tuple[object, list[Problem]]:
    """The spec as objects, from a manifest or from a spec alone, and what is wrong with the manifest around it.

    `status` is left aside, so that what `kubectl get -o yaml` prints is read as well.
    """
    if not isinstance(document, Mapping) or not {"apiVersion", "kind", "metadata", "spec"} & set(document):
        return document, []
    found = []
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(field) != wanted:
            found.append(problem(field, document[field], wanted) if field in document else missing(field, wanted))
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if metadata is not None and not isinstance(metadata, Mapping):
        found.append(problem("metadata", metadata, "an object"))
    elif name is None:
        found.append(missing("metadata.name", _NAME_EXPECTED))
    elif not isinstance(name, str) or len(name) > NAME_MAX_LENGTH or not _NAME.match(name):
        found.append(problem("metadata.name", name, _NAME_EXPECTED))
    found += [
        problem(str(key), document[key], "absent; a manifest has apiVersion, kind, metadata, spec and status")
        for key in document
        if key not in ("apiVersion", "kind", "metadata", "spec", "status")
    ]
    spec = document.get("spec")
    return {} if spec is None else spec, found


def parse_manifest(document: object) -> DTESNBatcherSpec:
    """The spec of a whole manifest (`apiVersion`, `kind` and `metadata.name` checked) or of a spec alone.

    Raises `SpecInvalid` with every problem of both.
    """
    raw, found = spec_of(document)
    try:
        spec = read(DTESNBatcherSpec, raw, "spec")
    except SpecInvalid as error:
        raise SpecInvalid([*found, *error.problems]) from None
    if found:
        raise SpecInvalid(found)
    return spec
