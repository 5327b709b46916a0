"""The endpoints under `/dtesn`, and those that watch the server.

What happens to every request is `routes_edge.py`; how a bulk call's outcomes become its answer, `routes_bulk.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from dtesn_api.names import MEDIA_JSON
from dtesn_api.wire import BatchProcessRequest, ConfigResponse, DirectRequest, HealthResponse, ProcessRequest, ProcessResponse
from dtesn_sidecar.errors import Unavailable
from dtesn_sidecar.health import STARTING, Gate, liveness, readiness
from dtesn_sidecar.oip.routes import add_routes
from dtesn_sidecar.oip.server import Inference
from dtesn_sidecar.openapi import document as openapi_document
from dtesn_sidecar.routes_body import expect, json_body
from dtesn_sidecar.routes_bulk import accepts_ndjson, document, stream
from dtesn_sidecar.routes_edge import VISIT, Edge, Handler, Visit

if TYPE_CHECKING:
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.metrics import Metrics
    from dtesn_sidecar.processor import DTESNProcessor

_JSON: Final = {"Content-Type": MEDIA_JSON}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the endpoints use."""

    processor: DTESNProcessor
    gate: Gate
    edge: Edge
    metrics: Metrics
    snapshot: Callable[[], ManagerSnapshot | None]
    config: Callable[[], ConfigResponse]
    max_body_bytes: int

    @property
    def inference(self) -> Inference:
        """What the Open Inference Protocol uses, over REST and over gRPC."""
        return Inference(self.processor, self.gate, self.snapshot, self.max_body_bytes)


def application(parts: Parts) -> web.Application:
    """The aiohttp application with every endpoint."""
    app = web.Application(middlewares=[parts.edge.middleware], client_max_size=parts.max_body_bytes)
    compute, watch = _Compute(parts), _Watch(parts)
    posts: dict[str, Handler] = {
        "/dtesn/process_with_batching": compute.process_with_batching,
        "/dtesn/process": compute.process,
        "/dtesn/batch_process": compute.batch_process,
    }
    gets: dict[str, Handler] = {
        "/dtesn/batch_metrics": watch.batch_metrics,
        "/healthz": watch.healthz,
        "/readyz": watch.readyz,
        "/metrics": watch.metrics,
        "/openapi.json": watch.openapi,
        "/config": watch.config,
    }
    for path, handler in posts.items():
        app.router.add_post(path, handler, expect_handler=expect)
    for path, handler in gets.items():
        app.router.add_get(path, handler)
    add_routes(app, parts.inference)
    return app


class _Compute:
    """The endpoints that compute."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._processor, self._gate = parts, parts.processor, parts.gate

    async def process_with_batching(self, request: web.Request) -> web.StreamResponse:
        """One input, batched with others."""
        return await self._process(request, ProcessRequest)

    async def process(self, request: web.Request) -> web.StreamResponse:
        """One input, alone."""
        return await self._process(request, DirectRequest)

    async def _process(self, request: web.Request, kind: type[ProcessRequest] | type[DirectRequest]) -> web.StreamResponse:
        visit: Visit = request[VISIT]
        processor = self._processor
        self._gate.enter()
        try:
            wanted = await processor.decode(await json_body(request, self._parts.max_body_bytes), kind)
            done = await processor.process_with_dynamic_batching(
                wanted.input_data,
                membrane_depth=wanted.membrane_depth,
                esn_size=wanted.esn_size,
                priority=wanted.priority,
                timeout=wanted.timeout,
                enable_batching=isinstance(wanted, ProcessRequest) and wanted.enable_batching,
                model=wanted.model,
                output=wanted.output,
                accepted_at=visit.began,
            )
            visit.timing = done.timing
            answer = ProcessResponse(result=done.body(), performance_metrics=processor.performance_metrics())
            return web.Response(body=await processor.encode(answer), headers=_JSON)
        finally:
            self._gate.leave()

    async def batch_process(self, request: web.Request) -> web.StreamResponse:
        """Many inputs with the same options, answered together or, as NDJSON, one by one."""
        self._gate.enter()
        try:
            wanted = await self._processor.decode(await json_body(request, self._parts.max_body_bytes), BatchProcessRequest)
            streamed = accepts_ndjson(request.headers.get("Accept", ""))
            outcomes = self._processor.stream_batch(
                wanted.inputs,
                enable_load_balancing=wanted.enable_load_balancing,
                membrane_depth=wanted.membrane_depth,
                esn_size=wanted.esn_size,
                priority=wanted.priority,
                timeout=wanted.timeout,
                model=wanted.model,
                output=wanted.output,
                accepted_at=request[VISIT].began,
                held=not streamed,
            )
            async with aclosing(outcomes):  # where the client goes away, what is left of its call is withdrawn at once
                if streamed:
                    return await stream(request, outcomes, self._processor, self._parts.edge)
                return await document(outcomes, self._processor, request[VISIT])
        finally:
            self._gate.leave()


class _Watch:
    """The endpoints that tell of the server."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._openapi = msgspec.json.encode(openapi_document())

    async def batch_metrics(self, _request: web.Request) -> web.StreamResponse:
        """The figures of batching."""
        if self._parts.snapshot() is None:
            raise Unavailable(STARTING, retry_after=1.0)
        return web.Response(body=msgspec.json.encode(self._parts.processor.batch_metrics()), headers=_JSON)

    async def healthz(self, _request: web.Request) -> web.StreamResponse:
        """200 while the process is worth keeping."""
        return _health(liveness(self._parts.gate.phase, self._parts.processor.manager))

    async def readyz(self, _request: web.Request) -> web.StreamResponse:
        """200 while requests should come here."""
        return _health(readiness(self._parts.gate.phase, self._parts.snapshot()))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """The Prometheus exposition."""
        body, content_type = self._parts.metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        """The OpenAPI document."""
        return web.Response(body=self._openapi, headers=_JSON)

    async def config(self, _request: web.Request) -> web.StreamResponse:
        """What is in force, and what is not and why."""
        return web.Response(body=msgspec.json.encode(self._parts.config()), headers=_JSON)


def _health(reasons: list[str]) -> web.Response:
    body = msgspec.json.encode(HealthResponse(status="unavailable" if reasons else "ok", reasons=reasons))
    return web.Response(status=503, body=body, headers={**_JSON, "Retry-After": "1"}) if reasons else web.Response(body=body, headers=_JSON)
