"""Server-sent events: one producer for all listeners, a sample a second, and listeners that cost nothing unbounded.

Nothing is queued for a listener. Each is at some sample and, whenever it has taken what was written to it, gets the newest with the
points that it missed: a slow reader gets fewer events, and one that reads nothing is cut off. What is in an event is `recorder.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from dtesn_sidecar.errors import Draining, Unavailable
from dtesn_sidecar.pages.recorder import Recorder, Sources

log = logging.getLogger(__name__)

SAMPLE_SECONDS: Final = 1.0
MAX_LISTENERS: Final = 32
STALLED_SECONDS: Final = 20.0  # a reader that takes nothing for so long is gone
RETRY_SECONDS: Final = 5.0
_FAREWELL_SECONDS: Final = 1.0
_END: Final = b"event: end\ndata: {}\n\n"

Write = Callable[[bytes], Awaitable[object]]


class Live:
    """Samples, and who listens. Call it on the event loop alone."""

    def __init__(self, sources: Sources) -> None:
        self._server = os.urandom(4).hex()
        self._recorder = Recorder(sources, self._server)
        self._listeners: set[asyncio.Timeout] = set()
        self._newer = asyncio.Event()  # replaced with each sample
        self._shared: tuple[int, bytes] | None = None
        self._failing = False
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    async def run(self) -> None:
        """Take a sample each second until cancelled. One that fails is logged, once until the next succeeds, and left out."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        epoch = time.time() - due  # once: points of the charts follow each other, also where the wall clock is set
        while True:
            now = loop.time()
            self._sample(now, epoch + now)
            due = max(due + SAMPLE_SECONDS, loop.time())  # what a busy loop missed is not made up for
            await asyncio.sleep(due - loop.time())

    def _sample(self, at: float, wall: float) -> None:
        try:
            self._recorder.take(at, wall)
        except Exception:  # the page must not end the server, and what is wrong once may be right again
            if not self._failing:
                log.exception("the figures of the live page could not be taken; its listeners wait")
            self._failing = True
        else:
            self._failing = False
            self._wake()

    def close(self) -> None:
        """End every stream at once, those too whose reader is slow. Idempotent."""
        self._closed = True
        self._wake()
        now = asyncio.get_running_loop().time()
        for limit in self._listeners:
            if limit.when() is not None:  # it is writing
                limit.reschedule(now)

    def check(self) -> None:
        """Raise Unavailable or Draining where no more may listen."""
        if self._closed:
            raise Draining("the server is shutting down", retry_after=1.0)
        if len(self._listeners) >= MAX_LISTENERS:
            raise Unavailable(f"{MAX_LISTENERS} live pages are open, which is the most", retry_after=RETRY_SECONDS)

    def position(self, last_event_id: str | None) -> int:
        """The sample that a listener has seen: 0 for a new one, and where its last event was another server's."""
        server, _, number = (last_event_id or "").rpartition("-")
        if server != self._server or not (number.isascii() and number.isdigit()) or len(number) > 15:
            return 0
        return int(number) if int(number) <= self._recorder.taken else 0

    async def feed(self, write: Write, position: int) -> None:
        """Write events to one listener until the server ends. Raises TimeoutError where it stops reading, and what `write` raises."""
        self.check()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            self._listeners.add(limit)
            try:
                while not self._closed:
                    newer = self._newer
                    if self._recorder.taken == position:
                        await newer.wait()
                        continue
                    position, event = self._event(position)
                    limit.reschedule(loop.time() + STALLED_SECONDS)
                    await write(event)
                    limit.reschedule(None)
                limit.reschedule(loop.time() + _FAREWELL_SECONDS)
                await write(_END)
            finally:
                self._listeners.discard(limit)

    def _event(self, position: int) -> tuple[int, bytes]:
        """The newest event for who has seen the sample `position`. Who is up to date shares its bytes with all others."""
        taken = self._recorder.taken
        if position != taken - 1:
            return taken, self._encoded(position)
        if self._shared is None or self._shared[0] != taken:
            self._shared = taken, self._encoded(position)
        return self._shared

    def _encoded(self, position: int) -> bytes:
        data = msgspec.json.encode(self._recorder.event(position))
        return b"id: %s-%d\ndata: %s\n\n" % (self._server.encode(), self._recorder.taken, data)

    def _wake(self) -> None:
        self._newer.set()
        self._newer = asyncio.Event()
