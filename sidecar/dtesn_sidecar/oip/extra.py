"""gRPC where it is asked for: importing it, which needs the extra, and saying so where that is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtesn_sidecar.errors import Unavailable

if TYPE_CHECKING:
    from dtesn_sidecar.oip.rpc.listener import Listener
    from dtesn_sidecar.oip.server import Inference
    from dtesn_sidecar.routes_edge import Edge


async def listen_rpc(parts: Inference, edge: Edge, host: str, port: int) -> Listener:
    """Serve gRPC on that port (0: any). Raises OSError where it cannot be bound, and Unavailable without the extra."""
    try:
        from dtesn_sidecar.oip.rpc.listener import listen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("grpc", "google"):
            raise
        raise Unavailable("gRPC needs the extra of that name: pip install 'dtesn-batcher[grpc]'") from error
    return await listen(parts, edge, host, port)
