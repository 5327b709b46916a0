"""The Deployment."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from hashlib import sha256
from typing import Any

import msgspec

from dtesn_api import names
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import DEPLOYMENT, Manifest
from dtesn_operator.resources.metadata import owned, selector
from dtesn_operator.resources.template import pod_template

_NONE = (0, "0%")


def deployment(batcher: Batcher, image: str) -> Manifest:
    """The Deployment. Raises `SpecInvalid` where the user's pod template does not go with the sidecar.

    `replicas` is always there: an apply that leaves it out resets it to 1. The annotation tells a later reconcile whether
    the pods would be replaced for another reason than their image.
    """
    template = pod_template(batcher, image)
    head = owned(DEPLOYMENT, batcher)
    head["metadata"]["annotations"] = {names.ANNOTATION_TEMPLATE_HASH: _template_hash(template)}
    return {
        **head,
        "spec": {
            "replicas": batcher.spec.replicas,
            "selector": {"matchLabels": selector(batcher.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": _rolling(batcher.spec)},
            "template": template,
        },
    }


def template_hash_of(workload: Mapping[str, Any]) -> str | None:
    """The hash that a Deployment was given, or None."""
    found: str | None = (workload["metadata"].get("annotations") or {}).get(names.ANNOTATION_TEMPLATE_HASH)
    return found


def _template_hash(template: Manifest) -> str:
    """SHA-256 of a pod template without the sidecar's image."""
    bare = deepcopy(template)
    for group in ("initContainers", "containers"):
        for one in bare["spec"].get(group, []):
            if one.get("name") == names.CONTAINER:
                del one["image"]
    return sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def _rolling(spec: DTESNBatcherSpec) -> Manifest:
    """With GPUs a pod goes before its successor comes: a surge pod would wait for a GPU that never frees. Not both may be 0."""
    unavailable: int | str
    surge: int | str
    unavailable, surge = (1, 0) if spec.gpu.count else (0, 1)
    if spec.strategy.max_unavailable is not None:
        unavailable = spec.strategy.max_unavailable
        surge = 1 if unavailable in _NONE else surge
    if spec.strategy.max_surge is not None:
        surge = spec.strategy.max_surge
        unavailable = 1 if surge in _NONE and spec.strategy.max_unavailable is None else unavailable
    return {"maxUnavailable": unavailable, "maxSurge": surge}
