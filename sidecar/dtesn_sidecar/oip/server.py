"""What the protocol needs of the server, over REST and over gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from dtesn_api.inference import EXTENSIONS, SERVER_NAME, ServerMetadata
from dtesn_sidecar.health import liveness, readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.health import Gate
    from dtesn_sidecar.processor import DTESNProcessor


@dataclass(frozen=True, slots=True)
class Inference:
    """The parts of the server that the protocol's endpoints use."""

    processor: DTESNProcessor
    gate: Gate
    snapshot: Callable[[], ManagerSnapshot | None]
    max_body_bytes: int

    @property
    def live(self) -> bool:
        """Whether the process is worth keeping."""
        return not liveness(self.gate.phase, self.processor.manager)

    @property
    def ready(self) -> bool:
        """Whether requests should come here."""
        return not readiness(self.gate.phase, self.snapshot())


def server_metadata() -> ServerMetadata:
    """The server, and the extensions of the protocol that it speaks."""
    return ServerMetadata(name=SERVER_NAME, version=version("dtesn-batcher"), extensions=list(EXTENSIONS))
