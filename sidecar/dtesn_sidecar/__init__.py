"""Dynamic batching of Deep Tree Echo State Networks, as a server and as a library.

The names below are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dtesn_api.spec import BatchConfiguration, ModelConfiguration
    from dtesn_sidecar.batching.budget import SchedulingBudget
    from dtesn_sidecar.batching.manager import DynamicBatchManager
    from dtesn_sidecar.errors import BreakerOpen, DeadlineExceeded, QueueFull, RequestTooLarge
    from dtesn_sidecar.load.application import create_load_tracker_for_app, get_batch_load_function
    from dtesn_sidecar.load.tracker import ServerLoadTracker
    from dtesn_sidecar.processor import DTESNProcessor

__all__ = [
    "BatchConfiguration",
    "BreakerOpen",
    "DTESNProcessor",
    "DeadlineExceeded",
    "DynamicBatchManager",
    "ModelConfiguration",
    "QueueFull",
    "RequestTooLarge",
    "SchedulingBudget",
    "ServerLoadTracker",
    "create_load_tracker_for_app",
    "get_batch_load_function",
]

_HOMES: Final = {
    "BatchConfiguration": "dtesn_api.spec",
    "BreakerOpen": "dtesn_sidecar.errors",
    "DTESNProcessor": "dtesn_sidecar.processor",
    "DeadlineExceeded": "dtesn_sidecar.errors",
    "DynamicBatchManager": "dtesn_sidecar.batching.manager",
    "ModelConfiguration": "dtesn_api.spec",
    "QueueFull": "dtesn_sidecar.errors",
    "RequestTooLarge": "dtesn_sidecar.errors",
    "SchedulingBudget": "dtesn_sidecar.batching.budget",
    "ServerLoadTracker": "dtesn_sidecar.load.tracker",
    "create_load_tracker_for_app": "dtesn_sidecar.load.application",
    "get_batch_load_function": "dtesn_sidecar.load.application",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
