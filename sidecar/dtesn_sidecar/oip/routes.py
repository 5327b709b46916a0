"""The endpoints under `/v2`. What happens to every request, errors in the protocol's form too, is `routes_edge.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from dtesn_api.inference import HEADER_JSON_LENGTH, Live, ModelReady, Ready
from dtesn_api.names import MEDIA_JSON
from dtesn_sidecar.oip.answers import body_of
from dtesn_sidecar.oip.bodies import Form, decode, encoding_of, json_length_of
from dtesn_sidecar.oip.errors import ROOT
from dtesn_sidecar.oip.offload import decoded
from dtesn_sidecar.oip.outputs import model_metadata
from dtesn_sidecar.oip.requests import known
from dtesn_sidecar.oip.running import infer
from dtesn_sidecar.oip.server import Inference, server_metadata
from dtesn_sidecar.routes_body import body_bytes, expect_any
from dtesn_sidecar.routes_edge import VISIT

if TYPE_CHECKING:
    from dtesn_sidecar.model.trees import Tree
    from dtesn_sidecar.oip.requests import Asked

_MODEL: Final = f"{ROOT}/models/{{model}}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"
_JSON: Final = {"Content-Type": MEDIA_JSON}


def add_routes(app: web.Application, server: Inference) -> None:
    """Add every endpoint of the protocol."""
    rest = _Rest(server)
    app.router.add_get(ROOT, rest.server)
    app.router.add_get(f"{ROOT}/health/live", rest.live)
    app.router.add_get(f"{ROOT}/health/ready", rest.ready)
    for model in (_MODEL, _VERSION):
        app.router.add_get(model, rest.model)
        app.router.add_get(f"{model}/ready", rest.model_ready)
        app.router.add_post(f"{model}/infer", rest.infer, expect_handler=expect_any)


class _Rest:
    def __init__(self, server: Inference) -> None:
        self._server, self._processor = server, server.processor

    async def server(self, _request: web.Request) -> web.StreamResponse:
        """The server's metadata."""
        return _json(server_metadata())

    async def live(self, _request: web.Request) -> web.StreamResponse:
        """200 while the process is worth keeping."""
        live = self._server.live
        return _json(Live(live=live), ok=live)

    async def ready(self, _request: web.Request) -> web.StreamResponse:
        """200 while requests should come here."""
        ready = self._server.ready
        return _json(Ready(ready=ready), ok=ready)

    async def model(self, request: web.Request) -> web.StreamResponse:
        """The model's metadata."""
        self._known(request)
        return _json(model_metadata(self._processor.config, self._processor.readout))

    async def model_ready(self, request: web.Request) -> web.StreamResponse:
        """200 while the model computes."""
        ready = self._server.ready
        return _json(ModelReady(name=self._known(request), ready=ready), ok=ready)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """The outputs of the rows of one tensor."""
        visit = request[VISIT]
        self._server.gate.enter()
        try:
            model = self._known(request)
            asked, trees = await self._read(request)
            answer = await infer(self._processor, asked, trees, visit.began)
            visit.timing = answer.timing
            body, headers = await body_of(answer, model, self._processor.helper)
            return web.Response(body=body, headers=headers)
        finally:
            self._server.gate.leave()

    async def _read(self, request: web.Request) -> tuple[Asked, list[Tree]]:
        most = self._server.max_body_bytes
        headers = request.headers
        form = Form(
            max_nodes=self._processor.config.max_nodes,
            max_bytes=most,
            json_length=json_length_of(headers.get(HEADER_JSON_LENGTH)),
            encoding=encoding_of(headers.get("Content-Encoding")),
        )
        body = await body_bytes(request, most)
        return await decoded(self._processor.helper, decode, body, form)

    def _known(self, request: web.Request) -> str:
        model = request.match_info["model"]
        known(self._processor.config.name, model, request.match_info.get("version", ""))
        return model


def _json(value: msgspec.Struct, *, ok: bool = True) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, headers=_JSON) if ok else web.Response(status=503, body=body, headers={**_JSON, "Retry-After": "1"})
