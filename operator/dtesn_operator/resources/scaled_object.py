"""The ScaledObject of KEDA, which also scales to zero."""

from __future__ import annotations

from typing import Final

from dtesn_api import names
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import SCALED_OBJECT, Manifest
from dtesn_operator.resources.metadata import owned
from dtesn_operator.resources.scaling import METRICS, held, percent, target

_PAUSED: Final = "autoscaling.keda.sh/paused"
_NEVER: Final = "1000000000"  # an activation threshold that nothing reaches
_SUFFIX: Final = "[a-z0-9]{1,10}-?[a-z0-9]{5}"  # of a Deployment's pods: the ReplicaSet's hash, cut off where the name is long


def scaled_object(batcher: Batcher) -> Manifest:
    """The ScaledObject.

    KEDA would scale from 0 to its minimum, so `replicas: 0` pauses it, as it suspends a HorizontalPodAutoscaler; with a
    minimum of 0 that number is KEDA's own doing.
    """
    autoscaling = batcher.spec.autoscaling
    head = owned(SCALED_OBJECT, batcher)
    if batcher.spec.replicas == 0 and autoscaling.min_replicas > 0:
        head["metadata"]["annotations"] = {_PAUSED: "true"}
    return {
        **head,
        "spec": {
            "scaleTargetRef": target(batcher.name),
            "minReplicaCount": autoscaling.min_replicas,
            "maxReplicaCount": autoscaling.max_replicas,
            "triggers": _triggers(batcher),
        },
    }


def _triggers(batcher: Batcher) -> list[Manifest]:
    """The trigger that sizes and, for a minimum of 0, the one that wakes.

    With a minimum of 0 the activation query alone says whether pods are needed: an idle pod's load is never quite 0. It asks
    for one pod and no more, however high it is.
    """
    autoscaling = batcher.spec.autoscaling
    to_zero = autoscaling.min_replicas == 0
    if autoscaling.target == "cpu":
        value = str(percent(held(autoscaling)))
        found = [{"type": "cpu", "metricType": "Utilization", "metadata": {"value": value, "containerName": names.CONTAINER}}]
    else:
        pods = f'namespace="{batcher.namespace}",pod=~"{batcher.name}-{_SUFFIX}"'
        query = f"sum({METRICS[autoscaling.target]}{{{pods}}})"
        found = [_prometheus(batcher, query, f"{held(autoscaling):.10g}", _NEVER if to_zero else "0")]
    if to_zero:
        found.append(_prometheus(batcher, f"({_closed(str(autoscaling.activation_query))}) > bool 0", "1", "0"))
    return found


def _closed(query: str) -> str:
    """The query, such that what follows is not taken for a comment."""
    return f"{query}\n" if "#" in query else query


def _prometheus(batcher: Batcher, query: str, threshold: str, activation: str) -> Manifest:
    """A trigger whose value is divided by the threshold to give the number of pods."""
    metadata = {
        "serverAddress": batcher.spec.autoscaling.prometheus_url,
        "query": query,
        "threshold": threshold,
        "activationThreshold": activation,
    }
    return {"type": "prometheus", "metricType": "AverageValue", "metadata": metadata}
