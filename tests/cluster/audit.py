"""What the API server's audit log says of writes: whose they were, and of what."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.cluster.cluster import Cluster

_WRITES = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True)
class Write:
    """A write that was carried out."""

    at: str  # when it arrived
    user: str
    agent: str
    verb: str
    resource: str  # with its subresource: `dtesnbatchers/status`
    name: str


def mark(cluster: Cluster) -> int:
    """The end of the log now, for `writes` from here on."""
    return cluster.audit.stat().st_size


def writes(cluster: Cluster, namespace: str, since: int = 0) -> list[Write]:
    """Writes in a namespace that succeeded and were no dry runs, in the order of their arrival; those of leases aside."""
    with cluster.audit.open("rb") as log:
        log.seek(since)
        entries = [json.loads(line) for line in log if line.endswith(b"\n")]
    found = []
    for entry in entries:
        about = entry.get("objectRef", {})
        if entry["verb"] not in _WRITES or about.get("namespace") != namespace or about.get("resource") == "leases":
            continue
        if "dryRun=" in entry["requestURI"] or entry.get("responseStatus", {}).get("code", 500) >= 300:
            continue
        resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        at, user = entry["requestReceivedTimestamp"], entry["user"]["username"]
        found.append(Write(at, user, entry.get("userAgent", ""), entry["verb"], resource, about.get("name", "")))
    return sorted(found, key=lambda write: write.at)
