"""The HTTPS server of the webhook. Any failure is an error status: the API server's failure policy then decides."""

from __future__ import annotations

import logging
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from dtesn_operator.inject import inject
from dtesn_operator.webhook.review import NotAReview, answer, request_of

if TYPE_CHECKING:
    from dtesn_operator.desired import Cluster
    from dtesn_operator.webhook.certificates import Pair

log = logging.getLogger(__name__)

PATH: Final = "/inject"
_MOST_BYTES: Final = 7_340_032  # an object may have 3 MiB, and a review may hold it twice
_CLOSE_SECONDS: Final = 3.0

Lookup = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
"""The DTESNBatcher of a namespace and a name, or None where there is none. What it raises makes the answer a 500."""


def application(lookup: Lookup, cluster: Callable[[], Cluster], count: Callable[[str], None] = lambda outcome: None) -> web.Application:
    """The application. `count` is told the outcome of each pod: `injected`, `refused` (with a warning) or `untouched`."""

    async def handle(request: web.Request) -> web.Response:
        try:
            asked = request_of(await request.read())
        except NotAReview as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        name = asked.wanted
        resource = None if name is None else await lookup(asked.namespace, name)
        injection = inject(asked.pod, resource, cluster())
        outcome = "injected" if injection.patch else "refused" if injection.warnings else "untouched"
        count(outcome)
        log.info("pod of %s in %s: %s %s", name, asked.namespace, outcome, "; ".join(injection.warnings))
        return web.Response(body=msgspec.json.encode(answer(asked, injection)), content_type="application/json")

    app = web.Application(client_max_size=_MOST_BYTES)
    app.router.add_post(PATH, handle)
    return app


async def listen(app: web.Application, context: ssl.SSLContext, host: str, port: int) -> web.AppRunner:
    """Serve until the runner's `cleanup` is awaited. Raises OSError where it cannot listen."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except BaseException:  # cancelled too: a runner that is set up and never returned would be nobody's to clean up
        await runner.cleanup()
        raise
    return runner


def server_context(pair: Pair) -> ssl.SSLContext:
    """The TLS settings of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, pair)
    return context


def load(context: ssl.SSLContext, pair: Pair) -> None:
    """Put another certificate into a context that is in use: connections made from now on get it."""
    with tempfile.TemporaryDirectory(prefix="dtesn-webhook-") as folder:  # of this user alone; OpenSSL reads files only
        chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        chain.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        context.load_cert_chain(chain, key)
