"""Dynamic batching inside an aiohttp application: cleanup context, typed keys, the application's own load, errors, figures.

Run it with `python examples/aiohttp_app.py 8000`, then: curl -s localhost:8000/process -d hello
"""

import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from dtesn_sidecar import DTESNProcessor, ModelConfiguration, get_batch_load_function
from dtesn_sidecar.errors import DTESNError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Running:
    """What changes while the application runs: the application itself is frozen then."""

    server_load_metrics: int = 0


RUNNING = web.AppKey("running", Running)
PROCESSOR = web.AppKey("processor", DTESNProcessor)


async def batching(app: web.Application) -> AsyncIterator[None]:
    """The processor lives as long as the application; its end answers everything accepted."""
    load = get_batch_load_function(app[RUNNING], max_requests=64)
    async with DTESNProcessor(ModelConfiguration(membrane_depth=2, esn_size=128), server_load_tracker=load) as processor:
        app[PROCESSOR] = processor
        yield


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the running requests, and answer each error of the library with the status that it carries."""
    running = request.app[RUNNING]
    running.server_load_metrics += 1
    try:
        return await handler(request)
    except DTESNError as error:
        headers = {"Retry-After": str(math.ceil(error.retry_after or 1.0))} if error.retryable else None
        document = {"title": type(error).__name__, "status": error.status, "code": error.code, "detail": error.detail}
        return web.Response(
            body=msgspec.json.encode(document), status=error.status, headers=headers, content_type="application/problem+json"
        )
    finally:
        running.server_load_metrics -= 1


async def process(request: web.Request) -> web.Response:
    """The text in the body, computed together with those of other requests."""
    answer = await request.app[PROCESSOR].process_with_dynamic_batching(await request.text())
    return web.Response(body=msgspec.json.encode(answer.body()), content_type="application/json")


async def batch_metrics(request: web.Request) -> web.Response:
    """How batching does, and the load that it sees."""
    return web.Response(body=msgspec.json.encode(request.app[PROCESSOR].batch_metrics()), content_type="application/json")


def application() -> web.Application:
    """The application with its routes."""
    app = web.Application(middlewares=[edge])
    app[RUNNING] = Running()
    app.cleanup_ctx.append(batching)
    app.router.add_post("/process", process)
    app.router.add_get("/batch_metrics", batch_metrics)
    return app


if __name__ == "__main__":
    # A request whose client has gone is cancelled, and leaves its batch.
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), handler_cancellation=True)
