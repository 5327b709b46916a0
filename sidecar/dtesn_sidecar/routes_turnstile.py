"""Turning requests away at the door: under overload most of what comes in is refused, and what that costs is taken from the rest.

A plain request that could not be accepted whatever its input is answered before aiohttp makes a request of it. The answer is the one
that the endpoint would have given, with the same headers, metrics and access line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from dtesn_api.wire import DirectRequest, ProcessRequest
from dtesn_sidecar.compute.offload import LARGE_BODY
from dtesn_sidecar.errors import UnsupportedMediaType
from dtesn_sidecar.health import Gate, Phase
from dtesn_sidecar.routes_body import check_type
from dtesn_sidecar.routes_edge import Edge, Visit

if TYPE_CHECKING:
    from dtesn_sidecar.processor import DTESNProcessor
    from dtesn_sidecar.routes_framing import Plain

_BATCHED: Final = msgspec.json.Decoder(ProcessRequest)
_DIRECT: Final = msgspec.json.Decoder(DirectRequest)
_DECODERS: Final[dict[str, msgspec.json.Decoder[ProcessRequest] | msgspec.json.Decoder[DirectRequest]]] = {
    "/dtesn/process_with_batching": _BATCHED,
    "/dtesn/process": _DIRECT,
}


class Turnstile:
    """Answers the requests that cannot be accepted now. Bodies beyond `max_body_bytes` are refused elsewhere, for that."""

    def __init__(self, edge: Edge, gate: Gate, processor: DTESNProcessor, max_body_bytes: int) -> None:
        self._edge, self._gate, self._processor = edge, gate, processor
        self._largest = min(max_body_bytes, LARGE_BODY)  # larger ones are not decoded on the event loop

    def answer(self, request: Plain, remote: str | None) -> bytes | None:
        """The whole response, or None: the request takes the usual way."""
        began = time.monotonic()
        decoder = _DECODERS.get(request.path)
        if decoder is None or self._gate.phase is not Phase.SERVING or len(request.body) > self._largest or not _usual(request.headers):
            return None
        try:
            check_type(request.headers)
            wanted = decoder.decode(request.body)
        except (UnsupportedMediaType, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # the endpoint has the words for what is wrong with it
        direct = not (self._processor.batching_enabled and isinstance(wanted, ProcessRequest) and wanted.enable_batching)
        error = self._processor.manager.turn_away(wanted.priority, wanted.timeout, direct=direct)
        if error is None:
            return None
        return self._edge.turned_away(Visit(request.headers, began), request.path, error, remote=remote, received=len(request.body))


def _usual(headers: Mapping[str, str]) -> bool:
    """Nothing is to be said before the answer, and the connection stays."""
    return "Expect" not in headers and headers.get("Connection", "keep-alive").lower() == "keep-alive"
