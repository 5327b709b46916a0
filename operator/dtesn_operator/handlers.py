"""The watches, by kopf: every event goes to one function. The only file that imports kopf.

kopf lists, watches and recovers (410, dropped streams, an API server that is away). Of its handling nothing else is used: no finalizers,
no annotations, no peering, no timers; retries are the work queue's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import kopf

from dtesn_api import names
from dtesn_operator.kinds import DTESN_BATCHER, OWNED, POD, Kind

OnEvent = Callable[[Mapping[str, Any], str | None], None]
"""Told an object and what happened to it: the type of the watch's event, None where the watch has listed it (at its begin, or anew)."""

IDLE: Final = 1.0  # seconds that kopf keeps a task for an object of which nothing new is heard


class Backoffs:
    """Endless delays before the next attempt at a listing, and new for each: kopf gives up watching where they run out."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.1
        while True:
            yield delay
            delay = min(2.0, delay * 2)


class NoDifferences(kopf.DiffBaseStorage):
    """Keeps nothing of an object: by itself kopf copies each one twice at every event, to find differences that nobody asks for."""

    def build(self, **_: Any) -> Any:
        """Nothing of the object matters."""
        return {}

    def fetch(self, **_: Any) -> None:
        """Nothing was kept."""

    def store(self, **_: Any) -> None:
        """Nothing is kept."""


class NoProgress(kopf.ProgressStorage):
    """Keeps nothing of handlers: those of events have no progress."""

    def fetch(self, **_: Any) -> None:
        """Nothing was kept."""

    def store(self, **_: Any) -> None:
        """Nothing is kept."""

    purge = touch = store

    def clear(self, *, essence: Any) -> Any:
        """There is nothing to clear away."""
        return essence


def settings() -> kopf.OperatorSettings:
    """kopf's settings. New kinds and namespaces are not looked for: that takes rights on the whole cluster."""
    found = kopf.OperatorSettings()
    found.persistence.diffbase_storage = NoDifferences()
    found.persistence.progress_storage = NoProgress()
    found.queueing.idle_timeout = IDLE
    found.posting.enabled = False
    found.scanning.disabled = True
    found.process.ultimate_exiting_timeout = None
    found.networking.error_backoffs = Backoffs()
    found.networking.connect_timeout = 5.0
    found.networking.request_timeout = 60.0
    found.watching.server_timeout = 300
    found.watching.connect_timeout = 5.0
    for kind in (*OWNED, POD):
        found.watching.label_selectors[kind.group, kind.version, kind.plural] = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
    return found


def registry(on_event: OnEvent, kinds: Iterable[Kind]) -> kopf.OperatorRegistry:
    """A registry that leads every event of these kinds to the function."""
    found = kopf.OperatorRegistry()

    @kopf.on.login(registry=found)
    def login(**given: Any) -> Any:
        return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

    async def seen(event: Mapping[str, Any], **_: Any) -> None:
        on_event(event["object"], event["type"])

    for kind in kinds:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=found, id="seen")(seen)
    return found


async def watch(on_event: OnEvent, namespaces: Sequence[str], optional: frozenset[Kind], ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Watch until `stop` is set or a signal comes; `ready` is set when it begins. `optional`: the optional kinds that there are."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    identity: Any = names.FIELD_MANAGER  # by itself kopf asks for the user's name, and many a container's user has none
    kinds = [kind for kind in (DTESN_BATCHER, *OWNED, POD) if not kind.optional or kind in optional]
    tasks = await kopf.spawn_tasks(
        registry=registry(on_event, kinds),
        settings=settings(),
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
        identity=identity,
        ready_flag=ready,
        stop_flag=stop,
    )
    # Not kopf.run_tasks: it takes every task that was made since for its own, and cancels the work and the handing over of the lease.
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
