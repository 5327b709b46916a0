"""The Service before the pods."""

from __future__ import annotations

from dtesn_api import names
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import SERVICE, Manifest
from dtesn_operator.resources.metadata import owned, selector


def service(batcher: Batcher) -> Manifest:
    """The Service. It finds the pods' port by its name, so that a change of the number leaves no pod behind during the rollout."""
    spec = batcher.spec
    port = {
        "name": names.PORT_NAME,
        "port": spec.service.port,
        "protocol": "TCP",
        "targetPort": names.CONTAINER_PORT_NAME,
    }
    return {**owned(SERVICE, batcher), "spec": {"type": spec.service.type, "selector": selector(batcher.name), "ports": [port]}}


def url(batcher: Batcher) -> str:
    """Where the Service is reached within the cluster."""
    port = "" if batcher.spec.service.port == 80 else f":{batcher.spec.service.port}"
    return f"http://{batcher.name}.{batcher.namespace}.svc{port}"
