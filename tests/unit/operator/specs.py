"""Resources to render: one fixed, one that uses everything, and a Hypothesis strategy over the whole specification."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tests.contract.spec_values import valid_section

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import DTESNBatcherSpec, decode_spec
from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import Cluster, Desired
from dtesn_operator.kinds import Manifest, key_of
from dtesn_operator.resources.template import pod_template

CLUSTER = Cluster(
    operator_image="registry.example/dtesn-batcher:1",
    operator_namespace="dtesn-system",
    available=frozenset(kind for kind in kinds.OWNED if kind.optional),
    prometheus_namespaces=("monitoring",),
)
APPLICATION = {"name": "web", "image": "registry.example/web:1", "ports": [{"name": "http", "containerPort": 80}]}
EVERYTHING: dict[str, Any] = {
    "replicas": 3,
    "image": {"repository": "registry.example/sidecar", "tag": "2", "pullPolicy": "Always", "pullSecrets": [{"name": "registry"}]},
    "model": {"name": "prices", "seed": 7, "leakRate": 0.5, "readout": {"configMap": {"name": "readouts", "key": "prices.safetensors"}}},
    "backend": "cupy",
    "gpu": {"count": 2, "deviceClassName": "gpu.example", "runtimeClassName": "nvidia"},
    "batching": {"targetBatchSize": 12, "maxBatchSize": 48, "maxTimeoutSeconds": 60},
    "load": {
        "prometheus": [
            {
                "name": "gateway",
                "url": "https://prometheus.example:9091",
                "query": "up",
                "auth": {"bearerTokenFile": "/etc/dtesn/secrets/gateway-token/token"},
                "secretRef": {"name": "gateway-token"},
            }
        ],
        "engine": {"url": "http://localhost:2242"},
    },
    "sidecar": {
        "port": 9000,
        "resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "env": [{"name": "TZ", "value": "UTC"}, {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "drainDelaySeconds": 10,
        "logging": {"level": "debug", "format": "text"},
    },
    "service": {"type": "NodePort", "port": 8000},
    "autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 20, "value": 0.65},
    "template": {
        "metadata": {"labels": {"team": "prices"}, "annotations": {"note": "spot"}},
        "spec": {
            "containers": [APPLICATION],
            "initContainers": [{"name": "prepare", "image": "registry.example/web:1"}],
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    },
    "strategy": {"maxUnavailable": "25%"},
    "monitoring": {"podMonitor": True, "scrapeAnnotations": True},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"role": "gateway"}}}], "egress": []},
    "disruptionBudget": {"enabled": True},
}


def batcher(spec: dict[str, Any] | None = None, name: str = "demo", **others: Any) -> Batcher:
    """A resource in the namespace `shop`."""
    return Batcher("shop", name, uid="6f1c", spec=decode_spec(spec or {}), **others)


def kind_of(result: Desired, kind: kinds.Kind) -> Manifest:
    """The one object of that kind."""
    (found,) = [one for one in result.objects if key_of(one).kind == kind]
    return found


def template_of(result: Desired) -> Manifest:
    """The Deployment's pod template."""
    return kind_of(result, kinds.DEPLOYMENT)["spec"]["template"]  # type: ignore[no-any-return]


def sidecar_of(pod: Manifest) -> Manifest:
    """The sidecar's container in a pod's spec."""
    (found,) = [one for group in ("initContainers", "containers") for one in pod.get(group, []) if one["name"] == "dtesn-sidecar"]
    return found


_label = st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
_labels = st.dictionaries(_label, _label, max_size=2)
_container = st.fixed_dictionaries(
    {"name": _label, "image": _label},
    optional={"ports": st.lists(st.fixed_dictionaries({"containerPort": st.integers(1, 65_535)}), max_size=2)},
)
_pod = st.fixed_dictionaries(
    {},
    optional={
        "containers": st.lists(_container, max_size=2),
        "initContainers": st.lists(_container, max_size=2),
        "volumes": st.lists(st.fixed_dictionaries({"name": _label, "emptyDir": st.just({})}), max_size=2),
        "nodeSelector": _labels,
        "serviceAccountName": _label,
        "terminationGracePeriodSeconds": st.integers(700, 5000) | st.none(),
        "securityContext": st.fixed_dictionaries({"runAsUser": st.sampled_from([0, 1000])}),
    },
)
_template = st.none() | st.fixed_dictionaries(
    {}, optional={"metadata": st.fixed_dictionaries({}, optional={"labels": _labels, "annotations": _labels}), "spec": _pod}
)
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)


@st.composite
def batchers(draw: st.DrawFn) -> Batcher:
    """A resource whose specification is valid and whose template goes with the sidecar."""
    spec = draw(valid_section(DTESNBatcherSpec).map(lambda raw: {key: value for key, value in raw.items() if key != "template"}))
    name = draw(NAMES)
    for template in (draw(_template), None):
        try:
            found = Batcher("shop", name, uid="6f1c", spec=decode_spec(spec | {"template": template}))
            pod_template(found, "a:1")
        except SpecInvalid:
            continue
        return found
    raise AssertionError("no template always goes with the sidecar")
