"""The PodMonitor of the Prometheus operator."""

from __future__ import annotations

from dtesn_api import names
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import POD_MONITOR, Manifest
from dtesn_operator.resources.metadata import owned, selector


def pod_monitor(batcher: Batcher) -> Manifest:
    """Each pod's metrics, labelled with the resource's name."""
    spec = {
        "selector": {"matchLabels": selector(batcher.name)},
        "podTargetLabels": [names.LABEL_INSTANCE],
        "podMetricsEndpoints": [{"port": names.CONTAINER_PORT_NAME, "path": "/metrics"}],
    }
    return {**owned(POD_MONITOR, batcher), "spec": spec}
