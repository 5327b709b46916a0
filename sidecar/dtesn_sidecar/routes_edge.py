"""The edge of the HTTP server: what happens to every request, whatever it asks for.

Its id and trace, the answer's common headers, errors as problem documents (those of aiohttp and of malformed HTTP too),
the access line, disconnects. What the endpoints do is `routes.py`; how bodies are read, `routes_body.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.web_request import BaseRequest

from dtesn_api.names import HEADER_REQUEST_ID, HEADER_SERVER_TIMING, HEADER_TRACEPARENT, MEDIA_JSON, MEDIA_PROBLEM
from dtesn_sidecar.batching.protocols import CALLER
from dtesn_sidecar.errors import DeadlineExceeded, Draining, DTESNError
from dtesn_sidecar.health import Gate, Phase
from dtesn_sidecar.logs import AccessLog, timestamp
from dtesn_sidecar.oip import errors as oip
from dtesn_sidecar.outputs import Timing
from dtesn_sidecar.problems import HTTP_CODES, HttpError, ProblemAnswer, answer_for, encoded
from dtesn_sidecar.traces import DISCONNECTED

if TYPE_CHECKING:
    from dtesn_sidecar.metrics import Metrics
    from dtesn_sidecar.traces import RequestTrace, Traces

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVER: Final = "dtesn-sidecar"
OTHER: Final = "other"  # the route, in log and metrics, of every path that is not ours
MALFORMED: Final = "malformed"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_new_id = map("{}-{:x}".format, itertools.repeat(os.urandom(6).hex()), itertools.count(1))


class Visit:
    """One request at the edge: who it is, when it came, and what the access line says of it."""

    __slots__ = ("began", "code", "request_id", "span", "timing", "trace", "traceresponse")

    def __init__(self, headers: Mapping[str, str], began: float) -> None:
        given = headers.get(HEADER_REQUEST_ID)
        self.request_id: str = given if given is not None and _REQUEST_ID.fullmatch(given) else next(_new_id)
        self.trace: str | None = None
        self.traceresponse: str | None = None
        if (parent := headers.get(HEADER_TRACEPARENT)) is not None and (parsed := trace_of(parent)) is not None:
            self.trace, flags = parsed
            self.traceresponse = f"00-{self.trace}-{os.urandom(8).hex()}-{flags}"
        self.began = began
        self.timing: Timing | None = None
        self.code: str | None = None
        self.span: RequestTrace | None = None


VISIT: Final[web.RequestKey[Visit]] = web.RequestKey("visit", Visit)


def trace_of(traceparent: str) -> tuple[str, str] | None:
    """Trace id and flags of a W3C traceparent, or None where it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace, parent, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace, 16) or not int(parent, 16):
        return None
    return trace, flags


def server_timing(total: float, timing: Timing | None) -> str:
    """The Server-Timing header; times are given in seconds."""
    if timing is None:
        return f"total;dur={1000 * total:.3f}"
    build = f"build;dur={1000 * timing.build:.3f}, " if timing.build else ""
    queued = f"{build}queue;dur={1000 * timing.queue:.3f}"
    if not timing.batch_items:  # it never left the queue
        return f"{queued}, total;dur={1000 * total:.3f}"
    return (
        f"{queued}, compute;dur={1000 * timing.compute:.3f}, "
        f'batch;desc="{timing.batch_items}", closed;desc="{timing.closed_by}", total;dur={1000 * total:.3f}'
    )


def as_bytes(visit: Visit, answer: ProblemAnswer, *, close: bool = False) -> tuple[bytes, bytes]:
    """Head and body of an answer as they are sent, with the headers that every response has."""
    body = encoded(answer)
    headers = {
        **answer.headers,
        "Content-Type": MEDIA_PROBLEM,
        "Server": SERVER,
        HEADER_REQUEST_ID: visit.request_id,
        HEADER_SERVER_TIMING: server_timing(time.monotonic() - visit.began, visit.timing),
        **({} if visit.traceresponse is None else {"traceresponse": visit.traceresponse}),
        "Content-Length": str(len(body)),
        "Date": _date(int(time.time())),
        **({"Connection": "close"} if close else {}),
    }
    status, lines = answer.document.status, "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    return f"HTTP/1.1 {status} {answer.document.title}\r\n{lines}\r\n\r\n".encode("ascii"), body


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Edge:
    """What is done around the handler of every request, and in place of one."""

    def __init__(self, gate: Gate, metrics: Metrics, access: AccessLog | None, traces: Traces | None = None) -> None:
        self._gate, self._metrics, self._access, self._traces = gate, metrics, access, traces

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What aiohttp calls around each handler."""
        visit = Visit(request.headers, time.monotonic())
        request[VISIT] = visit
        resource = request.match_info.route.resource
        route = OTHER if resource is None else resource.canonical
        if self._traces is not None and resource is not None and request.method == "POST":
            self._trace(self._traces, request, visit, route)
        try:
            response = await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            if request.transport is None or request.transport.is_closing():
                self._metrics.disconnected()
                self._line(request, visit, route, DISCONNECTED, 0)
            raise
        except Exception as error:  # every error has its answer; the unforeseen are logged by `_problem`
            if request.writer.output_size > 0:
                self._broken_off(visit, route, request, error)
                raise ConnectionAbortedError("the answer was begun and cannot be finished") from error
            response = self._problem(request, visit, error)
        if not response.prepared:
            self.stamp(response, visit)
        self._metrics.answered(route, response.status)
        self._line(request, visit, route, response.status, response.content_length or 0)
        return response

    def _trace(self, traces: Traces, request: web.Request, visit: Visit, route: str) -> None:
        """Begin the span of a request that computes; what it submits carries it (each request runs in a context of its own)."""
        _follow(visit, traces.begin(request.method, route, request.path, request.headers, time.monotonic() - visit.began))

    def trace_call(self, visit: Visit, method: str, metadata: Mapping[str, str]) -> None:
        """The same for a call of gRPC, which has a context of its own too."""
        if self._traces is not None:
            _follow(visit, self._traces.begin_call(method, metadata, time.monotonic() - visit.began))

    def stamp(self, response: web.StreamResponse, visit: Visit) -> None:
        """Give a response the headers that every response has."""
        headers = response.headers
        headers["Server"] = SERVER
        headers[HEADER_REQUEST_ID] = visit.request_id
        headers[HEADER_SERVER_TIMING] = server_timing(time.monotonic() - visit.began, visit.timing)
        if visit.traceresponse is not None:
            headers["traceresponse"] = visit.traceresponse
        if self._gate.phase in (Phase.LEAVING, Phase.CLOSED):
            response.force_close()

    def farewell(self) -> bytes:
        """The answer to whatever an idle connection would still ask."""
        visit = Visit({}, time.monotonic())
        head, body = as_bytes(visit, answer_for(Draining("the server is shutting down", retry_after=1.0), visit.request_id), close=True)
        return head + body

    def turned_away(self, visit: Visit, route: str, error: DTESNError, *, remote: str | None, received: int) -> bytes:
        """The answer to a request that becomes none of aiohttp's, counted and logged as any other."""
        answer = answer_for(error, visit.request_id)
        visit.code, status = answer.document.code, answer.document.status
        head, body = as_bytes(visit, answer)
        self._metrics.answered(route, status)
        what = {"method": "POST", "route": route, "status": status, "remote": remote, "received": received, "sent": len(body)}
        self._add(visit, what)
        return head + body

    def outside(self, request: BaseRequest, error: BaseException, route: str) -> web.Response:
        """The answer to what never reaches a handler, or fails outside of it."""
        visit = Visit(request.headers, time.monotonic())
        response = self._problem(request, visit, error)
        self.stamp(response, visit)
        self._metrics.answered(route, response.status)
        self._line(request, visit, route, response.status, response.content_length or 0)
        return response

    def _broken_off(self, visit: Visit, route: str, request: BaseRequest, error: Exception) -> None:
        """An answer that was begun cannot become an error any more. The connection ends without the end of the body, which says so."""
        visit.code = "broken_off"
        log.error("request %s broke off: %s", visit.request_id, type(error).__name__, exc_info=error)
        self._metrics.answered(route, 500)
        self._line(request, visit, route, 500, request.writer.output_size)

    def _problem(self, request: BaseRequest, visit: Visit, error: BaseException) -> web.Response:
        if isinstance(error, web.HTTPException):
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            error = HttpError(error.status if error.status in HTTP_CODES else 500, headers=allow)
        answer = answer_for(error, visit.request_id)
        status, body, media = answer.document.status, encoded(answer), MEDIA_PROBLEM
        if oip.speaks(request.path):
            status, body, media = oip.status_of(status), oip.encoded(answer), MEDIA_JSON
        visit.code = answer.document.code
        if visit.timing is None and isinstance(error, DeadlineExceeded) and error.spent is not None:
            visit.timing = Timing(sum(error.spent[:2]), 0.0, *error.spent)
        if status == 500 or visit.code == "internal":
            log.error("request %s failed: %s", visit.request_id, type(error).__name__, exc_info=error)
        response = web.Response(status=status, body=body, headers={**answer.headers, "Content-Type": media})
        if not request.content.is_eof():
            response.force_close()  # what is left of the body is not worth reading
        return response

    def _line(self, request: BaseRequest, visit: Visit, route: str, status: int, sent: int) -> None:
        if visit.span is not None:
            visit.span.end(status, visit.code)
        self._add(
            visit,
            {
                "method": request.method[:16],
                "route": route,
                "status": status,
                "remote": request.remote,
                "received": request.content_length,
                "sent": sent,
            },
        )

    def called(self, visit: Visit, method: str, code: str, *, peer: str, received: int, sent: int) -> None:
        """A call of gRPC has ended, with the name of its status code."""
        if visit.span is not None:
            visit.span.end_call(code, visit.code)
        self._metrics.called(method.rpartition("/")[2], code)
        self._add(visit, {"method": "gRPC", "route": method, "status": code, "remote": peer, "received": received, "sent": sent})

    def _add(self, visit: Visit, what: dict[str, Any]) -> None:
        if self._access is None:
            return
        timing = visit.timing
        self._access.add(
            {
                "time": timestamp(time.time()),
                "level": "info",
                "message": "request",
                **what,
                "code": visit.code,
                "request_id": visit.request_id,
                "trace_id": visit.trace,
                "total_ms": round(1000 * (time.monotonic() - visit.began), 3),
                "queue_ms": None if timing is None else round(1000 * timing.queue, 3),
                "compute_ms": None if timing is None else round(1000 * timing.compute, 3),
                "batch": None if timing is None else timing.batch_items or None,
                "closed_by": None if timing is None else timing.closed_by or None,
            }
        )


def _follow(visit: Visit, span: RequestTrace) -> None:
    """What the request submits from now on is part of this trace."""
    visit.span, visit.trace, visit.traceresponse = span, span.trace_id, span.traceresponse
    CALLER.set(span.caller)
