"""The NetworkPolicy: who reaches the sidecar, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import NETWORK_POLICY, Manifest
from dtesn_operator.resources.freeform import copied
from dtesn_operator.resources.metadata import owned, selector

_DNS = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]


def network_policy(batcher: Batcher, namespaces: Sequence[str]) -> Manifest:
    """The policy. `namespaces`: the operator's, which reads figures from the pods, and those of Prometheus.

    Ports of the application are open to everyone, as they were without a policy; the sidecar's is not.
    """
    policy = batcher.spec.network_policy
    spec: Manifest = {
        "podSelector": {"matchLabels": selector(batcher.name)},
        "policyTypes": ["Ingress"],
        "ingress": list(_ingress(batcher.spec, namespaces)),
    }
    if policy.egress is not None:
        spec["policyTypes"] = ["Ingress", "Egress"]
        spec["egress"] = [{"ports": _DNS}, *_load_ports(batcher.spec), *copied(policy.egress)]
    return {**owned(NETWORK_POLICY, batcher), "spec": spec}


def _ingress(spec: DTESNBatcherSpec, namespaces: Sequence[str]) -> Iterator[Manifest]:
    peers: list[Mapping[str, Any]] = copied(spec.network_policy.from_)
    peers += [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}} for name in dict.fromkeys(namespaces)]
    if peers:  # a rule without peers would let everyone in
        yield {"from": peers, "ports": [{"port": spec.sidecar.port, "protocol": "TCP"}]}
    if ports := list(_application_ports(spec)):
        yield {"ports": ports}


def _application_ports(spec: DTESNBatcherSpec) -> Iterator[Manifest]:
    """The ports that containers of the template declare, each once."""
    pod = (spec.template or {}).get("spec") or {}
    containers = [one for group in ("containers", "initContainers") for one in pod.get(group) or []]
    declared = [port for one in containers for port in one.get("ports") or [] if isinstance(port.get("containerPort"), int)]
    found = {(port["containerPort"], str(port.get("protocol") or "TCP")) for port in declared}
    for number, protocol in sorted(found):
        yield {"port": number, "protocol": protocol}


def _load_ports(spec: DTESNBatcherSpec) -> list[Manifest]:
    """The ports of the load sources' URLs, to any address: a policy cannot name hosts."""
    urls = [source.url for source in spec.load.prometheus]
    if spec.load.engine is not None:
        urls.append(spec.load.engine.url)
    ports = sorted({port for url in urls if (port := _port(url)) is not None})
    return [{"ports": [{"port": port, "protocol": "TCP"} for port in ports]}] if ports else []


def _port(url: str) -> int | None:
    """The port, or None where the URL has none that exists: such a source has no data, and says why."""
    try:
        parts = urlsplit(url)
        return parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
