"""A private control plane with the operator, for `bench.operator`: what is done to it, and what its audit log says of it.

Times are the API server's own, of the audit log: from a request's arrival to the end of its answer. They hold nothing of whoever asks.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
from tests.cluster.control_plane import AUDIT_POLICY, CRDS, ControlPlane
from tests.cluster.processes import Daemon

from bench.replica import NAMESPACE
from dtesn_operator.client import path_of
from dtesn_operator.kinds import DTESN_BATCHER, Kind

SETTLED = 0.15  # share of a core that the processes of a plane at rest take together
WRITES = ("create", "update", "patch", "delete", "deletecollection")
TENANTS = "bench"  # namespace of the resources, where they are not spread over more


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the audit log has it; `received` and `answered` are seconds since 1970."""

    verb: str
    agent: str
    resource: str
    name: str
    subresource: str
    received: float
    answered: float
    status: int

    @property
    def writes(self) -> bool:
        """Whether it changed something."""
        return self.verb in WRITES and self.status < 300

    @property
    def operators(self) -> bool:
        """Whether it came from the operator: its own client, or the watches'."""
        return self.agent.startswith(("dtesn-operator", "kopf"))


class Plane(ControlPlane):
    """One whose own costs hide less of the operator.

    It has memory to spare, so it collects its garbage less often; and it logs what is read of the log, which the controllers' requests
    are not: four of five.
    """

    environment: Mapping[str, str] = {"GOGC": "400"}
    audit_policy: Mapping[str, Any] = {
        **AUDIT_POLICY,
        "rules": [
            {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]},
            {"level": "None", "userGroups": ["system:serviceaccounts"]},
            *AUDIT_POLICY["rules"],
        ],
    }


class Resource(msgspec.Struct):
    """What is read of a DTESNBatcher in a stream of events."""

    metadata: dict[str, Any]
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class _Kind(msgspec.Struct):
    type: str


class Event(msgspec.Struct):
    """A watch event."""

    type: str
    object: Resource


@dataclass
class World:
    """The control plane, the operator's process, and a session as a person."""

    plane: ControlPlane
    operator: Daemon
    session: aiohttp.ClientSession
    _read: int = 0  # bytes of the audit log

    async def send(
        self, method: str, kind: Kind, body: Any, name: str = "", content: str = "application/json", namespace: str = TENANTS
    ) -> float:
        """A write that must succeed; when it was sent, in monotonic seconds."""
        sent = time.monotonic()
        url = f"{self.plane.url}{path_of(kind, namespace, name or None)}"
        async with self.session.request(method, url, data=json.dumps(body), headers={"Content-Type": content}) as answer:
            if answer.status >= 300:
                raise RuntimeError(f"{method} {url}: {answer.status} {await answer.text()}")
            await answer.read()
        return sent

    async def exists(self, kind: Kind, name: str) -> bool:
        """Whether there is such an object."""
        async with self.session.get(f"{self.plane.url}{path_of(kind, TENANTS, name)}") as answer:
            await answer.read()
            return answer.status == 200

    def audited(self) -> list[Request]:
        """What the audit log has gained since the last call."""
        with self.plane.audit.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data.rfind(b"\n") + 1
        self._read += whole
        return [request_of(line) for line in data[:whole].splitlines() if b'"ResponseComplete"' in line]

    async def settled(self) -> None:
        """Wait until nothing is going on: a new API server takes seconds to describe its own kinds."""
        async with asyncio.timeout(120):
            before, began = sum(cpu_seconds(self.daemons()).values()), time.monotonic()
            while True:
                await asyncio.sleep(2.0)
                after, now = sum(cpu_seconds(self.daemons()).values()), time.monotonic()
                if after - before < SETTLED * (now - began):
                    return
                before, began = after, now

    def daemons(self) -> dict[str, psutil.Process]:
        """Every process by name."""
        return {"operator": psutil.Process(self.operator.pid)} | {
            name: psutil.Process(daemon.pid) for name, daemon in self.plane.daemons.items()
        }

    async def until_ready(self, count: int, seconds: float, told: Callable[[int], None]) -> float:
        """Watch until so many resources, wherever, are Ready in their present generation; when the last one was, in monotonic seconds."""
        ready: set[str] = set()
        url = f"{self.plane.url}{path_of(DTESN_BATCHER)}"
        async with asyncio.timeout(seconds):
            while True:  # the API server ends watches now and then, and more so just after the definition was applied
                async for event in self._events(url):
                    if _is_ready(event.object):
                        ready.add(event.object.metadata["name"])
                        told(len(ready))
                    if len(ready) == count:
                        return time.monotonic()
                await asyncio.sleep(0.2)

    async def _events(self, url: str) -> AsyncIterator[Event]:
        """The events of one watch, until it ends or says that it cannot go on."""
        async with self.session.get(url, params={"watch": "1"}) as answer:
            async for line in answer.content:
                if msgspec.json.decode(line, type=_Kind).type == "ERROR":
                    return
                yield msgspec.json.decode(line, type=Event)


def cpu_seconds(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """CPU time that each has taken."""
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


def _is_ready(resource: Resource) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True" and one["observedGeneration"] == resource.metadata["generation"]
        for one in resource.status.get("conditions", ())
    )


def request_of(line: bytes) -> Request:
    """A line of the audit log, of a request that was answered."""
    entry = msgspec.json.decode(line)
    reference = entry.get("objectRef", {})
    return Request(
        verb=entry["verb"],
        agent=entry.get("userAgent", ""),
        resource=reference.get("resource", ""),
        name=reference.get("name", ""),
        subresource=reference.get("subresource", ""),
        received=_seconds(entry["requestReceivedTimestamp"]),
        answered=_seconds(entry["stageTimestamp"]),
        status=entry.get("responseStatus", {}).get("code", 0),
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@asynccontextmanager
async def world(url: str, *more: str) -> AsyncIterator[World]:
    """A new control plane with an operator that has nothing to do yet. Pods are at `url`; `more`: namespaces beside TENANTS."""
    with tempfile.TemporaryDirectory(prefix="dtesn-bench-") as folder, Plane.started(Path(folder) / "plane", first=CRDS) as plane:
        for namespace in (NAMESPACE, TENANTS, *more):
            plane.kubectl("create", "namespace", namespace)
        command: Sequence[str | Path] = [sys.executable, "-m", "bench.replica", plane.kubeconfig, url]
        operator = Daemon("operator", command, Path(folder))
        connector = aiohttp.TCPConnector(ssl=plane.tls, limit=64)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        headers = {"User-Agent": "bench"}
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, read_bufsize=1 << 24) as session:
                found = World(plane, operator, session)
                await found.settled()
                yield found
        finally:
            operator.stop()
