"""What both autoscalers share: the target, which is the resource itself, and numbers as Kubernetes writes them."""

from __future__ import annotations

from math import ceil

from dtesn_api import names
from dtesn_api.spec import Autoscaling
from dtesn_operator.kinds import Manifest

_DEFAULTS = {"load": 0.7, "pendingPerPod": 10.0, "cpu": 0.7}
METRICS = {"load": names.METRIC_LOAD_COMBINED, "pendingPerPod": names.METRIC_PENDING}


def target(name: str) -> Manifest:
    """The resource's scale subresource: the operator carries its number of replicas on to the Deployment."""
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": name}


def held(autoscaling: Autoscaling) -> float:
    """The value to hold."""
    return _DEFAULTS[autoscaling.target] if autoscaling.value is None else autoscaling.value


def percent(ratio: float) -> int:
    """A ratio as a utilisation, at least one percent."""
    return max(1, round(ratio * 100))


def quantity(value: float) -> str:
    """The value as a canonical quantity, in thousandths where it is no whole number; at least one thousandth."""
    return f"{value:.0f}" if value.is_integer() else f"{ceil(round(value * 1000, 6))}m"
