"""The composition root of `dtesn-operator run`: watches, election, workers and HTTP, joined and ended together."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from dtesn_api import names
from dtesn_operator.client import Client, connected
from dtesn_operator.desired import Cluster
from dtesn_operator.elector import Elector, Timing
from dtesn_operator.errors import ApiFailed, OperatorError
from dtesn_operator.events import Recorder
from dtesn_operator.handlers import watch
from dtesn_operator.health import served
from dtesn_operator.metrics import Metrics
from dtesn_operator.probe import Probe, UrlOf, pod_url
from dtesn_operator.reconcile import Reconciler
from dtesn_operator.resync import INTERVAL, Listing, available, forget_ghosts, listed, unseen
from dtesn_operator.store import Key, Store, owner_of
from dtesn_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

WORKERS: Final = 16
LEASE: Final = "dtesn-operator"
RESYNC_RETRY: Final = 2.0
CATCH_UP: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `run` was asked for. `namespaces`: those to follow, none = all; `namespace`: the operator's own, where its lease is."""

    image: str
    namespace: str
    identity: str
    namespaces: tuple[str, ...] = ()
    prometheus_namespaces: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104 - probes come from the node
    port: int = 8081
    timing: Timing = field(default_factory=Timing)
    url_of: UrlOf = pod_url


class Operator:
    """One replica."""

    def __init__(self, settings: Settings, client: Client, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._client = client
        self._store = Store()
        self._queue: WorkQueue[Key] = WorkQueue(random.random)
        self._watching = asyncio.Event()
        self._arrived = asyncio.Event()
        self._last_event = time.monotonic()
        self.metrics = Metrics()
        self._elector = Elector(client, settings.namespace, LEASE, settings.identity, wall=microtime, timing=settings.timing)
        self._reconciler = Reconciler(
            client=client,
            store=self._store,
            cluster=Cluster(
                operator_image=settings.image,
                operator_namespace=settings.namespace,
                prometheus_namespaces=settings.prometheus_namespaces,
            ),
            probe=Probe(session, settings.url_of),
            recorder=Recorder(client, settings.identity, microtime),
            clock=time.monotonic,
            wall=rfc3339,
        )
        self.metrics.gauge(names.METRIC_OPERATOR_QUEUE, "Resources that wait for a worker.", lambda: len(self._queue))
        self.metrics.gauge(
            names.METRIC_OPERATOR_EVENT_AGE, "Seconds since the last watch event.", lambda: time.monotonic() - self._last_event
        )
        self.metrics.gauge(names.METRIC_OPERATOR_LEADING, "1 while this replica leads.", lambda: float(self._elector.leading))
        self.metrics.gauge(names.METRIC_OPERATOR_RESOURCES, "Resources known.", lambda: len(self._store.resources()))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set or a signal comes."""
        watching = asyncio.ensure_future(watch(self.on_event, self._settings.namespaces, self._watching, stop))
        electing = asyncio.ensure_future(self._elect())
        try:
            await asyncio.wait({watching, electing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            electing.cancel()
            results = await asyncio.gather(watching, electing, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def on_event(self, manifest: Mapping[str, Any], gone: bool) -> None:
        """Take in what a watch says, and queue the resource that it is about."""
        self._last_event = time.monotonic()
        self._arrived.set()
        self.metrics.events.labels(manifest["kind"]).inc()
        changed = self._store.gone(manifest) if gone else self._store.seen(manifest)
        if changed and self._elector.leading:
            self._queue.add(owner_of(manifest))

    def not_ready(self) -> str:
        """Why it is not ready, or nothing."""
        return "" if self._watching.is_set() else "the watches have not begun"

    async def _elect(self) -> None:
        await self._watching.wait()
        await self._elector.run(self._lead)

    async def _lead(self) -> None:
        """What the leader does: workers on the queue, and the resync."""
        self._queue.clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resyncing())
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            self._queue.clear()

    async def _resyncing(self) -> None:
        """Queue every resource: at first as soon as the watches have brought what there is, then at intervals."""
        first = True
        while True:
            try:
                optional = await available(self._client)
                listing = await listed(self._client, self._store, optional, self._settings.namespaces)
            except OperatorError as error:
                log.warning("resync: %s", error)
                await asyncio.sleep(RESYNC_RETRY)
                continue
            self._reconciler.cluster = replace(self._reconciler.cluster, available=optional)
            if first:
                await self._caught_up(listing)
                first = False
            ghosts = forget_ghosts(self._store, listing)
            if ghosts:
                log.info("%d objects had gone without an event", len(ghosts))
            for key in (*ghosts, *self._store.resources()):
                self._queue.add(key)
            await asyncio.sleep(INTERVAL)

    async def _caught_up(self, listing: Listing) -> None:
        """Wait for the watches to bring what was listed. What goes meanwhile never comes, so not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP):
                while unseen(self._store, listing):
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            began = time.monotonic()
            try:
                again = await self._reconciler.reconcile(key)
            except OperatorError as error:
                log.warning("reconcile %s/%s: %s", key.namespace, key.name, error)
                self.metrics.reconciles.labels("failed").inc()
                self._queue.failed(key, error.after if isinstance(error, ApiFailed) else None)
            except asyncio.CancelledError:
                self._queue.abandoned(key)
                raise
            except Exception:  # one resource's fault must not end the work on the others; a test shows it
                log.exception("reconcile %s/%s", key.namespace, key.name)
                self.metrics.reconciles.labels("failed").inc()
                self._queue.failed(key)
            else:
                self.metrics.reconciles.labels("ok").inc()
                self._queue.done(key)
                if again is not None:
                    self._queue.add_after(key, again)
            self.metrics.seconds.observe(time.monotonic() - began)


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Run one replica until a signal comes or `stop` is set. Raises `NotConfigured` where there is no way to an API server."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(settings.kubeconfig))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        operator = Operator(settings, client, session)
        port = await stack.enter_async_context(
            served(settings.host, settings.port, alive=lambda: "", ready=operator.not_ready, metrics=operator.metrics)
        )
        log.info("%s: health and metrics on port %d", settings.identity, port)
        await operator.run(stop or asyncio.Event())


def rfc3339() -> str:
    """The time now, to the second, as conditions have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def microtime() -> str:
    """The time now, to the microsecond, as leases and events have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
