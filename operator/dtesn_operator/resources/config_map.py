"""The ConfigMap of the live settings, which running sidecars follow."""

from __future__ import annotations

from dtesn_api import names
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import CONFIG_MAP, Manifest
from dtesn_operator.resources.metadata import owned


def config_map(batcher: Batcher, live: bytes) -> Manifest:
    """The ConfigMap that holds these bytes."""
    return {**owned(CONFIG_MAP, batcher), "data": {names.CONFIG_FILE: live.decode()}}
