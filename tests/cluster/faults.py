"""What happens to API servers, done to one of a test's own: not there, there and silent, and without a memory."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.control_plane import ControlPlane


@contextmanager
def refused(plane: ControlPlane) -> Iterator[None]:
    """For the block, connections to the API server are refused: it is killed. Afterwards it is ready again, on the same port.

    The cluster's own controllers begin anew then: by themselves they would try again with delays of up to half a minute.
    """
    plane.api_server.kill()
    try:
        yield
    finally:
        plane.api_server.start()
        plane.api_server.until(plane.ready)
        plane.restart_controllers()


@contextmanager
def hung(plane: ControlPlane) -> Iterator[None]:
    """For the block, the API server takes connections and never answers: it is stopped (SIGSTOP)."""
    plane.api_server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        plane.api_server.send(signal.SIGCONT)
        plane.api_server.until(plane.ready)


def forget(plane: ControlPlane) -> int:
    """Compact the store and start the API server again: a watch from before, or a page of a list, gets 410 Gone. The revision kept."""
    with refused(plane):
        revision = int(_etcd(plane, "kv/range", {"key": "AA==", "limit": 1})["header"]["revision"])
        _etcd(plane, "kv/compaction", {"revision": revision, "physical": True})
    return revision


def _etcd(plane: ControlPlane, call: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{plane.etcd}/v3/{call}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
