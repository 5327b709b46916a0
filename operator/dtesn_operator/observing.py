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
DOUBT: Final = 10.0  # seconds until a changed figure is looked at again: a moment's load is not worth a write
MOST_SKIPPED: Final = 8  # rounds between two looks at a resource whose pods are silent


class Rounds:
    """The rounds. `changed` is told each resource whose status should be written; while `busy()`, others have a better use for the time."""

    def __init__(self, reconciler: Reconciler, changed: Callable[[Key], None], busy: Callable[[], bool], *, seconds: float = ROUND) -> None:
        self._reconciler = reconciler
        self._changed, self._busy = changed, busy
        self._seconds = seconds
        self._skips: dict[str, tuple[int, int]] = {}  # by UID: rounds to skip, and of how many
        self._doubted: dict[Key, float] = {}  # when to look again at figures that seem to have changed

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
                for doubted in [one for one, at in self._doubted.items() if at <= loop.time()]:
                    await self._visit(doubted)
            await asyncio.sleep(max(1.0, began + self._seconds - loop.time()))

    async def _visit(self, key: Key) -> None:
        manifest = self._reconciler.store.resource(key)
        memory = self._reconciler.memory(key)
        doubted = self._doubted.pop(key, None) is not None
        if manifest is None or memory is None or self._skipped(manifest["metadata"]["uid"]):
            return
        try:
            batcher = stored(manifest, memory.batcher)
        except SpecInvalid:
            return
        ready = [pod for pod in pods_of(self._reconciler.store.pods(key)) if pod.ready and pod.ip]
        bodies = await self._reconciler.visits.metrics(ready, batcher.spec.sidecar.port)
        before, now = memory.reading, self._reconciler.clock()
        reading = Reading(len(ready), tuple(bodies), now)
        self._note(batcher.uid, silent=not bodies)
        others = _others(before, reading)
        if not (others or doubted) and _differs(reading, memory, status.observed_before(batcher), now):
            self._doubted[key] = now + DOUBT
        else:
            memory.reading = reading
            if others or _differs(reading, memory, status.observed_before(batcher), now):
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


def _others(before: Reading | None, reading: Reading) -> bool:
    """Whether other pods were asked or answered than before, or now with data where there was none."""
    return before is None or (bool(before.bodies), before.fresh, before.asked) != (bool(reading.bodies), reading.fresh, reading.asked)


def _differs(reading: Reading, memory: Memory, shown: Observed | None, now: float) -> bool:
    """Whether the figures to show are others."""
    since = now - memory.observed_at if memory.observed_at is not None else 0.0
    return observe.kept(shown, observe.observed_of(reading.bodies), since) != shown
