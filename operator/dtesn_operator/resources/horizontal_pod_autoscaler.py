"""The HorizontalPodAutoscaler, on the sidecars' own load or on their CPU."""

from __future__ import annotations

from dtesn_api import names
from dtesn_api.spec import Autoscaling
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import HORIZONTAL_POD_AUTOSCALER, Manifest
from dtesn_operator.resources.metadata import owned
from dtesn_operator.resources.scaling import METRICS, held, percent, quantity, target


def horizontal_pod_autoscaler(batcher: Batcher) -> Manifest:
    """The autoscaler. `load` and `pendingPerPod` are pod metrics of the custom metrics API."""
    autoscaling = batcher.spec.autoscaling
    return {
        **owned(HORIZONTAL_POD_AUTOSCALER, batcher),
        "spec": {
            "scaleTargetRef": target(batcher.name),
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": [_metric(autoscaling)],
        },
    }


def _metric(autoscaling: Autoscaling) -> Manifest:
    if autoscaling.target == "cpu":
        utilisation = {"type": "Utilization", "averageUtilization": percent(held(autoscaling))}
        return {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": names.CONTAINER, "target": utilisation}}
    average = {"type": "AverageValue", "averageValue": quantity(held(autoscaling))}
    return {"type": "Pods", "pods": {"metric": {"name": METRICS[autoscaling.target]}, "target": average}}
