"""The PodDisruptionBudget."""

from __future__ import annotations

from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import POD_DISRUPTION_BUDGET, Manifest
from dtesn_operator.resources.metadata import owned, selector


def pod_disruption_budget(batcher: Batcher) -> Manifest:
    """One pod at a time may be evicted; one that is not ready always, or a broken pod would hold up the drain of its node."""
    spec = {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": selector(batcher.name)}}
    return {**owned(POD_DISRUPTION_BUDGET, batcher), "spec": spec}
