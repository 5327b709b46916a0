"""The composition root of `dtesn-operator run`: watches, election, the leader's work, the webhook and HTTP, joined and ended together."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from dtesn_api import names
from dtesn_operator.client import Client, connected
from dtesn_operator.desired import Cluster
from dtesn_operator.elector import Elector, Timing
from dtesn_operator.events import Recorder
from dtesn_operator.health import served
from dtesn_operator.kinds import DTESN_BATCHER, Kind, ObjectKey
from dtesn_operator.leading import Leader
from dtesn_operator.metrics import Metrics
from dtesn_operator.probe import Probe, UrlOf, pod_url
from dtesn_operator.reconcile import Reconciler
from dtesn_operator.store import Key, Store, owner_of
from dtesn_operator.visits import Visits
from dtesn_operator.watching import Watches
from dtesn_operator.webhook.keeper import Place
from dtesn_operator.webhook.running import Source, Webhook, kept, mounted
from dtesn_operator.webhook.server import application
from dtesn_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

LEASE: Final = "dtesn-operator"


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Where the webhook listens, and whence its certificates come: from a folder, or else from the API server (a Secret of its own)."""

    port: int
    folder: Path | None = None
    service: str = ""
    configuration: str = ""
    secret: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `run` was asked for. `namespaces`: those to follow, none = all; `namespace`: the operator's own, where its lease is."""

    image: str
    namespace: str
    identity: str
    lease: str = LEASE
    namespaces: tuple[str, ...] = ()
    prometheus_namespaces: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104 - probes come from the node
    port: int = 8080
    webhook: WebhookSettings | None = None
    timing: Timing = field(default_factory=Timing)
    url_of: UrlOf = pod_url


class Operator:
    """One replica."""

    def __init__(self, settings: Settings, client: Client, session: aiohttp.ClientSession) -> None:
        self._client = client
        self._store = Store()
        self._queue: WorkQueue[Key] = WorkQueue(random.random)
        self._last_event = time.monotonic()
        self.metrics = Metrics()
        self._elector = Elector(client, settings.namespace, settings.lease, settings.identity, wall=microtime, timing=settings.timing)
        writing = client.guarded(self._elector.may_act)
        self._reconciler = Reconciler(
            client=writing,
            store=self._store,
            cluster=Cluster(
                operator_image=settings.image,
                operator_namespace=settings.namespace,
                prometheus_namespaces=settings.prometheus_namespaces,
            ),
            visits=Visits(writing, Probe(session, settings.url_of)),
            recorder=Recorder(writing, settings.identity, microtime, time.monotonic),
            clock=time.monotonic,
            wall=rfc3339,
        )
        self._leader = Leader(writing, self._reconciler, self._queue, self.metrics, settings.namespaces)
        self._watches = Watches(client, settings.namespaces, self.on_event, self._on_kinds)
        self._webhook = None if settings.webhook is None else self._made(settings, settings.webhook)
        self.metrics.gauge(names.METRIC_OPERATOR_QUEUE, "Resources that wait for a worker.", lambda: len(self._queue))
        self.metrics.gauge(
            names.METRIC_OPERATOR_EVENT_AGE, "Seconds since the last watch event.", lambda: time.monotonic() - self._last_event
        )
        self.metrics.gauge(names.METRIC_OPERATOR_LEADING, "1 while this replica leads.", lambda: float(self._elector.leading))
        self.metrics.gauge(names.METRIC_OPERATOR_RESOURCES, "Resources known.", lambda: len(self._store.resources()))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set or a signal comes."""
        works = [self._watches.run(stop), self._elect(), *([self._webhook.run()] if self._webhook is not None else [])]
        watching, *others = tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            for task in others:
                task.cancel()
            results = await asyncio.gather(watching, *others, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def on_event(self, manifest: Mapping[str, Any], happened: str | None) -> None:
        """Take in what a watch says, and queue the resource that it is about."""
        self._last_event = time.monotonic()
        self.metrics.events.labels(manifest["kind"]).inc()
        changed = self._store.gone(manifest) if happened == "DELETED" else self._store.seen(manifest)
        if happened is None:
            self._leader.listed.set()
        self._leader.stirred.set()
        if changed and self._elector.leading:
            self._queue.add(owner_of(manifest))

    def not_ready(self) -> str:
        """Why it is not ready, or nothing."""
        if not self._watches.begun.is_set():
            return self._watches.trouble or "the watches have not begun"
        return "" if self._webhook is None else self._webhook.not_ready()

    def _on_kinds(self, optional: frozenset[Kind]) -> None:
        self._reconciler.cluster = replace(self._reconciler.cluster, available=optional)
        self._leader.resync.set()

    async def _elect(self) -> None:
        await self._watches.begun.wait()
        await self._elector.run(self._leader.run)

    def _made(self, settings: Settings, wanted: WebhookSettings) -> Webhook:
        app = application(self._resource, lambda: self._reconciler.cluster)
        return Webhook(app, _source(wanted, self._client, settings.namespace), settings.host, wanted.port)

    async def _resource(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The resource that a pod asks for: as the watches know it, or, where they do not, as the API server says."""
        return self._store.resource(Key(namespace, name)) or await self._client.get(ObjectKey(DTESN_BATCHER, namespace, name))


def _source(wanted: WebhookSettings, client: Client, namespace: str) -> Source:
    if wanted.folder is not None:
        return mounted(wanted.folder)
    return kept(client, Place(namespace, wanted.secret, wanted.configuration, (f"{wanted.service}.{namespace}.svc",)))


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
