"""HTTP for probes and Prometheus: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from dtesn_operator.metrics import Metrics

Check = Callable[[], str]
"""What is wrong, in words; nothing where all is well."""


@asynccontextmanager
async def served(host: str, port: int, *, alive: Check, ready: Check, metrics: Metrics) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port (a free one where 0 is asked for)."""
    application = web.Application()
    application.router.add_get("/healthz", lambda _: _answer(alive()))
    application.router.add_get("/readyz", lambda _: _answer(ready()))
    application.router.add_get("/metrics", lambda _: _metrics(metrics))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _answer(trouble: str) -> web.Response:
    return web.Response(text=(trouble or "ok") + "\n", status=503 if trouble else 200)


async def _metrics(metrics: Metrics) -> web.Response:
    return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})
