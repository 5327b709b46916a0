"""Leader election on a Lease: at most one replica works, and it stops before another can begin.

An elector of our own, since the client's keeps acting after its lease is lost. Safety rests on two inequalities: work is cancelled
`deadline` seconds after the start of the last renewal that succeeded, and another takes the lease `duration` seconds after it
last saw it change, by its own clock. `deadline` < `duration`, with room for the cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dtesn_operator.client import Client, path_of
from dtesn_operator.errors import ApiFailed, OperatorError
from dtesn_operator.kinds import LEASE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: how long a lease lasts unrenewed, until when a leader must have renewed, how often it tries."""

    duration: float = 15.0
    deadline: float = 10.0
    period: float = 2.0


@dataclass(slots=True)
class Sight:
    """A lease as seen by this replica: who held it, its version, and since when (monotonic) it has not changed."""

    holder: str = ""
    version: str = ""
    since: float = 0.0


def free(sight: Sight, me: str, now: float, duration: float) -> bool:
    """Whether the lease may be taken: nobody holds it, we do, or its holder has not renewed it for its whole duration."""
    return sight.holder in ("", me) or now >= sight.since + duration


class Elector:
    """One replica's part. `work` runs while it leads."""

    def __init__(
        self, client: Client, namespace: str, name: str, identity: str, *, wall: Callable[[], str], timing: Timing | None = None
    ) -> None:
        self._client = client
        self._namespace, self._name, self._identity = namespace, name, identity
        self._wall = wall
        self._timing = timing or Timing()
        self._sight = Sight()
        self._until = 0.0
        self.leading = False

    def may_act(self) -> bool:
        """Whether the lease is ours for sure: also false where this process was stopped for a while and does not know it yet."""
        return self.leading and self._now() < self._until

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Lead whenever possible, until cancelled; then the lease is given back."""
        try:
            while True:
                began = self._now()
                if await self._tried():
                    await self._lead(work, began)
                await asyncio.sleep(self._timing.period)
        finally:
            await self._release()

    async def _lead(self, work: Callable[[], Awaitable[None]], renewed: float) -> None:
        """Work while the lease is ours."""
        log.info("leading as %s", self._identity)
        self.leading, self._until = True, renewed + self._timing.deadline
        working = asyncio.ensure_future(work())
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=self._timing.period)
                began = self._now()
                if not working.done() and await self._tried(max(0.0, self._until - began)):
                    self._until = began + self._timing.deadline
                elif not working.done() and (self._sight.holder != self._identity or self._now() >= self._until):
                    log.warning("the lease was not renewed in time; the work stops")
                    break
            if working.done():
                working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self.leading = False

    async def _tried(self, seconds: float | None = None) -> bool:
        """Take or renew the lease within so many seconds; whether it is ours. Any failure is a renewal that failed."""
        try:
            async with asyncio.timeout(self._timing.deadline if seconds is None else seconds):
                return await self._take()
        except (OperatorError, TimeoutError, LookupError, AttributeError, TypeError, ValueError) as error:
            log.warning("lease %s: %s %s", self._name, type(error).__name__, error)
            return False

    async def _take(self) -> bool:
        path = path_of(LEASE, self._namespace, self._name)
        try:
            lease = await self._client.call("GET", path, seconds=self._timing.deadline)
        except ApiFailed as error:
            if error.status != 404:
                raise
            made = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": self._spec({})}
            lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **made}
            self._see(await self._client.call("POST", path_of(LEASE, self._namespace), lease, seconds=self._timing.deadline))
            return True
        self._see(lease)
        if not free(self._sight, self._identity, self._now(), self._timing.duration):
            return False
        wanted = {**lease, "spec": self._spec(lease.get("spec") or {})}
        try:
            self._see(await self._client.call("PUT", path, wanted, seconds=self._timing.deadline))
        except ApiFailed as error:
            if error.conflict:  # another was faster
                self._sight.holder = "?"
                return False
            raise
        return True

    def _see(self, lease: Mapping[str, Any]) -> None:
        version = lease["metadata"]["resourceVersion"]
        if version != self._sight.version:
            self._sight = Sight((lease.get("spec") or {}).get("holderIdentity") or "", version, self._now())

    def _spec(self, before: Mapping[str, Any]) -> dict[str, Any]:
        now, ours = self._wall(), before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._timing.duration),
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not ours),
        }

    async def _release(self) -> None:
        """Give the lease back, so that the next one need not wait for its end."""
        if self._sight.holder != self._identity:
            return
        try:
            async with asyncio.timeout(self._timing.period):
                path = path_of(LEASE, self._namespace, self._name)
                lease = await self._client.call("GET", path)
                if lease["metadata"]["resourceVersion"] == self._sight.version:
                    await self._client.call("PUT", path, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except (OperatorError, TimeoutError) as error:
            log.warning("the lease was not given back, and ends by itself: %s %s", type(error).__name__, error)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
