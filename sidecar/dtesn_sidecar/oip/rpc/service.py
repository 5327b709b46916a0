"""The methods of GRPCInferenceService, and what happens to every call: its id, its errors as status codes, its line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from msgspec import UNSET
from msgspec.structs import replace
from multidict import CIMultiDict

from dtesn_api.names import HEADER_REQUEST_ID, HEADER_SERVER_TIMING
from dtesn_sidecar.bulk import LEAST_TIMEOUT
from dtesn_sidecar.errors import MalformedBody
from dtesn_sidecar.oip.offload import decoded
from dtesn_sidecar.oip.outputs import model_metadata
from dtesn_sidecar.oip.requests import known
from dtesn_sidecar.oip.rpc import open_inference_pb2 as pb
from dtesn_sidecar.oip.rpc.messages import Form, decode, encode, model_message, server_message, written
from dtesn_sidecar.oip.running import infer
from dtesn_sidecar.oip.server import Inference, server_metadata
from dtesn_sidecar.problems import answer_for
from dtesn_sidecar.routes_edge import Edge, Visit, server_timing

if TYPE_CHECKING:
    from dtesn_sidecar.oip.requests import Asked

log = logging.getLogger(__name__)

SERVICE: Final = "inference.GRPCInferenceService"
CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,  # the same request will never do; RESOURCE_EXHAUSTED would say: later
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
PUSHBACK: Final = "grpc-retry-pushback-ms"  # gRPC's own Retry-After, which its clients obey where they have a retry policy
_MOST_DETAIL: Final = 1000  # bytes; a status travels in a header, and headers are bounded

M = TypeVar("M", bound=Message)
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Method = Callable[[bytes, Context, Visit], Awaitable[bytes]]


class Service:
    """The service over the parts of the server. `edge` keeps the access log and the metrics."""

    def __init__(self, server: Inference, edge: Edge) -> None:
        self._server, self._processor, self._edge = server, server.processor, edge
        methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._around(name, method)) for name, method in methods.items()}
        self.handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _around(self, name: str, method: Method) -> Callable[[bytes, Context], Awaitable[bytes]]:
        route = f"/{SERVICE}/{name}"

        async def call(body: bytes, context: Context) -> bytes:
            metadata = CIMultiDict((key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str))
            visit = Visit(metadata, time.monotonic())
            code, detail, more, answer = grpc.StatusCode.OK, "", dict[str, str](), b""
            if name == "ModelInfer":
                self._edge.trace_call(visit, route, metadata)
            try:
                answer = await method(body, context, visit)
            except asyncio.CancelledError:
                self._edge.called(visit, route, grpc.StatusCode.CANCELLED.name, peer=context.peer(), received=len(body), sent=0)
                raise
            except Exception as error:  # noqa: BLE001 - every error has its status; the unforeseen are logged by `status_of`
                code, detail, more = status_of(error, visit)
            more[HEADER_REQUEST_ID.lower()] = visit.request_id
            more[HEADER_SERVER_TIMING.lower()] = server_timing(time.monotonic() - visit.began, visit.timing)
            self._edge.called(visit, route, code.name, peer=context.peer(), received=len(body), sent=len(answer))
            if code is not grpc.StatusCode.OK:
                await context.abort(code, detail, tuple(more.items()))
            context.set_trailing_metadata(tuple(more.items()))
            return answer

        return call

    async def _live(self, _body: bytes, _context: Context, _visit: Visit) -> bytes:
        return written(pb.ServerLiveResponse(live=self._server.live))

    async def _ready(self, _body: bytes, _context: Context, _visit: Visit) -> bytes:
        return written(pb.ServerReadyResponse(ready=self._server.ready))

    async def _model_ready(self, body: bytes, _context: Context, _visit: Visit) -> bytes:
        self._known(_read(pb.ModelReadyRequest, body))
        return written(pb.ModelReadyResponse(ready=self._server.ready))

    async def _server_metadata(self, _body: bytes, _context: Context, _visit: Visit) -> bytes:
        return written(server_message(server_metadata()))

    async def _model_metadata(self, body: bytes, _context: Context, _visit: Visit) -> bytes:
        self._known(_read(pb.ModelMetadataRequest, body))
        return written(model_message(model_metadata(self._processor.config, self._processor.readout)))

    async def _infer(self, body: bytes, context: Context, visit: Visit) -> bytes:
        self._server.gate.enter()
        try:
            config = self._processor.config
            form = Form(model=config.name, max_nodes=config.max_nodes)
            asked, trees = await decoded(self._processor.helper, decode, body, form)
            asked = in_time(asked, context.time_remaining(), self._processor.manager.config.max_timeout)
            answer = await infer(self._processor, asked, trees, visit.began)
            visit.timing = answer.timing
            return encode(answer, config.name)
        finally:
            self._server.gate.leave()

    def _known(self, named: pb.ModelReadyRequest | pb.ModelMetadataRequest) -> None:
        known(self._processor.config.name, named.name, named.version)


def in_time(asked: Asked, left: float | None, most: float) -> Asked:
    """The request with the seconds that are `left` of the call's own deadline (None: it has none), where its timeout is not sooner.

    A deadline is no timeout that is out of range: beyond `most` it counts as that.
    """
    if left is None:
        return asked
    left = min(max(left, LEAST_TIMEOUT), most)
    return replace(asked, timeout=left if asked.timeout is None else min(left, asked.timeout))


def _read(kind: type[M], body: bytes) -> M:
    try:
        message: M = kind.FromString(body)
        return message
    except DecodeError:
        raise MalformedBody(f"the message is no {kind.__name__}") from None


def status_of(error: Exception, visit: Visit) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """The status code of an error, its words, and metadata."""
    answer = answer_for(error, visit.request_id)
    document = answer.document
    visit.code = document.code
    code = CODES.get(document.status, grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        log.error("request %s failed: %s", visit.request_id, type(error).__name__, exc_info=error)
    wait = document.retry_after
    more = {} if wait is UNSET else {PUSHBACK: str(1000 * wait)}
    return code, document.detail.encode("ascii", "backslashreplace")[:_MOST_DETAIL].decode(), more
