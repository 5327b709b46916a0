"""The port of gRPC: bound, started, and closed without losing a call that was accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

from dtesn_sidecar.oip.rpc.service import Service

if TYPE_CHECKING:
    from dtesn_sidecar.oip.server import Inference
    from dtesn_sidecar.routes_edge import Edge

_STREAMS: Final = 1024  # calls at once on one connection


class Listener:
    """One listening server."""

    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server, self.port = server, port

    async def stop(self, grace: float) -> None:
        """Take no more calls, and return once those under way are answered, or cut them off after so many seconds. Idempotent."""
        await self._server.stop(grace)


async def listen(parts: Inference, edge: Edge, host: str, port: int) -> Listener:
    """Serve on that port (0: any). Raises OSError where it cannot be bound."""
    server = grpc.aio.server(options=_options(parts.max_body_bytes))
    server.add_generic_rpc_handlers((Service(parts, edge).handler,))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: {error}") from None
    await server.start()
    return Listener(server, bound)


def _options(max_body_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a second server behind it
        ("grpc.max_receive_message_length", max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", _STREAMS),
        # No compression: gRPC bounds a message before it is uncompressed, but not after.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
