"""Whether this server is alive, and whether it is ready: pure functions of its phase and of the manager's snapshot."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from dtesn_sidecar.errors import Draining, Unavailable

if TYPE_CHECKING:
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot


STARTING = "the server is starting: the model and the workers are not ready"


class Phase(Enum):
    """The life of the server, in this order."""

    STARTING = "starting"  # model and workers are being made ready
    SERVING = "serving"
    LEAVING = "leaving"  # readiness has failed; still served, since endpoints lag
    CLOSED = "closed"  # nothing new is taken; what was accepted is answered


class Vital(Protocol):
    """What liveness asks of the manager: itself has it at hand, and so has its snapshot."""

    @property
    def running(self) -> bool:
        """Between start and stop."""

    @property
    def alive(self) -> bool:
        """The loop runs."""

    @property
    def live(self) -> bool:
        """Workers do not hang again and again."""


def liveness(phase: Phase, manager: Vital) -> list[str]:
    """Why the process should be restarted; empty: it should not."""
    if not manager.running or phase is Phase.CLOSED:
        return []
    reasons = []
    if not manager.alive:
        reasons.append("the batch loop is dead")
    if not manager.live:
        reasons.append("compute workers hang again and again")
    return reasons


def readiness(phase: Phase, snapshot: ManagerSnapshot | None) -> list[str]:
    """Why no requests should be sent here; empty: they should."""
    if phase is Phase.STARTING or snapshot is None:
        return [STARTING]
    if phase is not Phase.SERVING:
        return ["the server is shutting down"]
    reasons = liveness(phase, snapshot)
    return reasons or ([] if snapshot.ready else ["the batch manager takes no requests"])


class Gate:
    """Lets requests in by the phase, and knows how many are inside."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.inside = 0
        self._emptied: asyncio.Future[None] | None = None

    def enter(self) -> None:
        """A request comes in. Raises Unavailable or Draining where none may."""
        if self.phase is Phase.STARTING:
            raise Unavailable(STARTING, retry_after=1.0)
        if self.phase is Phase.CLOSED:
            raise Draining("the server is shutting down", retry_after=1.0)
        self.inside += 1

    def leave(self) -> None:
        """A request that came in has its answer, or its client has gone."""
        self.inside -= 1
        if self.inside == 0 and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def empty(self, within: float) -> bool:
        """Return True once none is inside, or False after so many seconds."""
        try:
            async with asyncio.timeout(within):
                while self.inside:
                    self._emptied = asyncio.get_running_loop().create_future()
                    await self._emptied
        except TimeoutError:
            return False
        return True
