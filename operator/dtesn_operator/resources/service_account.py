"""The ServiceAccount that the pods run as. The sidecar asks nothing of the API server, so no token is mounted."""

from __future__ import annotations

from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import SERVICE_ACCOUNT, Manifest
from dtesn_operator.resources.metadata import owned


def service_account(batcher: Batcher) -> Manifest:
    """The ServiceAccount."""
    return {**owned(SERVICE_ACCOUNT, batcher), "automountServiceAccountToken": False}
