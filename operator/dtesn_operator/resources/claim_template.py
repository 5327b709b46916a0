"""The ResourceClaimTemplate of a DRA claim for GPUs. Its spec is immutable, so its name follows from it."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from dtesn_api.spec import Gpu
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import RESOURCE_CLAIM_TEMPLATE, Manifest
from dtesn_operator.resources.metadata import owned


def claim_template_name(name: str, gpu: Gpu) -> str:
    """The resource's name and the hash of the claim's spec: at most 63 characters."""
    return f"{name}-{sha256(msgspec.json.encode(_claim(gpu))).hexdigest()[:10]}"


def claim_template(batcher: Batcher) -> Manifest:
    """The template that each pod's claim is made from."""
    name = claim_template_name(batcher.name, batcher.spec.gpu)
    return {**owned(RESOURCE_CLAIM_TEMPLATE, batcher, name), "spec": {"spec": _claim(batcher.spec.gpu)}}


def _claim(gpu: Gpu) -> Manifest:
    wanted = {"deviceClassName": gpu.device_class_name, "allocationMode": "ExactCount", "count": gpu.count}
    return {"devices": {"requests": [{"name": "gpu", "exactly": wanted}]}}
