"""The `queue` provider: how busy this server's own compute devices are (their busy share, averaged over 1 s)."""

from __future__ import annotations

from collections.abc import Callable

from dtesn_sidecar.load.readings import LoadProvider


def queue_load(busy_share: Callable[[], float | None]) -> LoadProvider:
    """A provider that reads `busy_share` (in [0, 1]; None: nothing measured yet) on the event loop, where it lives."""

    async def queue() -> float | None:
        share = busy_share()
        return None if share is None else min(1.0, max(0.0, share))

    return queue
