"""The leader's rounds: the figures of every resource's ready pods, one resource after the other, so that the calls are spread evenly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from dtesn_api.problems import SpecInvalid
from dtesn_api.status import Observed
from dtesn_operator import observe, status
from dtesn_operator.batcher import stored
from dtesn_operator.observe import Reading
from dtesn_operator.pods import pods_of
from dtesn_operator.reconcile import Memory, Reconciler
from dtesn_operator.store import Key

ROUND: Final = 15.0  # seconds of a round at least
PER_SECOND: Final = 5.0  # pods on average, far below what the probe allows
FIRST_PER_SECOND: Final = 15.0  # of resources that have no figures yet
WAIT: Final = 0.5
MOST_WAITED: Final = 60.0  # seconds of a round until there is no other work
MOST_SKIPPED: Final = 8  # rounds between two looks at a resource whose pods are silent


class Rounds:
    """The rounds. `changed` is told each resource whose status should be written; while `busy()`, others have a better use for the time."""

    def __init__(self, reconciler: Reconciler, changed: Callable[[Key], None], busy: Callable[[], bool], *, seconds: float = ROUND) -> None:
        self._reconciler = reconciler
        self._changed, self._busy = changed, busy
        self._seconds = seconds
        self._skips: dict[str, tuple[int, int]] = {}  # by UID: rounds to skip, and of how many

    async def run(self) -> None:
        """Go round for ever."""
        loop = asyncio.get_running_loop()
        while True:
            began, waited = loop.time(), 0.0
            for key in self._reconciler.store.resources():
                while self._busy() and waited < MOST_WAITED:
                    await asyncio.sleep(WAIT)
                    waited += WAIT
                await self._visit(key)
            await asyncio.sleep(max(1.0, began + self._seconds - loop.time()))

    async def _visit(self, key: Key) -> None:
        manifest = self._reconciler.store.resource(key)
        memory = self._reconciler.memory(key)
        if manifest is None or memory is None or self._skipped(manifest["metadata"]["uid"]):
            return
        try:
            batcher = stored(manifest, memory.batcher)
        except SpecInvalid:
            return
        ready = [pod for pod in pods_of(self._reconciler.store.pods(key)) if pod.ready and pod.ip]
        bodies = await self._reconciler.visits.metrics(ready, batcher.spec.sidecar.port)
        before, memory.reading = memory.reading, Reading(len(ready), tuple(bodies), self._reconciler.clock())
        self._note(batcher.uid, silent=not bodies)
        if _worth_telling(before, memory, status.observed_before(batcher), self._reconciler.clock()):
            self._changed(key)
        await asyncio.sleep(len(ready) / (FIRST_PER_SECOND if before is None else PER_SECOND))

    def _skipped(self, uid: str) -> bool:
        left, of = self._skips.get(uid, (0, 0))
        if left:
            self._skips[uid] = (left - 1, of)
        return left > 0

    def _note(self, uid: str, *, silent: bool) -> None:
        if not silent:
            self._skips.pop(uid, None)
            return
        _, of = self._skips.get(uid, (0, 0))
        of = min(MOST_SKIPPED, of * 2 or 1)
        self._skips[uid] = (of, of)


def _worth_telling(before: Reading | None, memory: Memory, shown: Observed | None, now: float) -> bool:
    """Whether the reading would change the status: the figures to show, or whether there is any."""
    reading = memory.reading
    if reading is None:
        return False
    if before is None or (bool(before.bodies), before.fresh, before.asked) != (bool(reading.bodies), reading.fresh, reading.asked):
        return True
    fresh = observe.observed_of(reading.bodies)
    since = now - memory.observed_at if memory.observed_at is not None else 0.0
    return observe.kept(shown, fresh, since) != shown
