"""Dry-run creates of DTESNBatchers over connections that are kept: what the API server says of a spec, a few milliseconds each."""

from __future__ import annotations

import http.client
import json
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.cluster.cluster import Cluster

from dtesn_api import names

_AT_ONCE = 4
_PATH = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}?dryRun=All&fieldValidation=Strict"


class Answer(NamedTuple):
    """The API server's answer: its status code, and the object as it would be stored or the Status that says why not."""

    code: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        """What is wrong, in a sentence; empty where nothing is."""
        return str(self.body["message"]) if self.code >= 400 else ""

    @property
    def causes(self) -> dict[str, str]:
        """What is wrong by the field's path, without the notes that are about no field."""
        causes = self.body.get("details", {}).get("causes", [])
        return {cause["field"].removeprefix("."): cause["message"] for cause in causes if cause["field"] != "<nil>"}


class DryRuns:
    """As admin, in the namespace default, with strict validation as kubectl asks for it."""

    def __init__(self, cluster: Cluster, pool: ThreadPoolExecutor) -> None:
        place = urlsplit(cluster.url)
        self._headers = {"Content-Type": "application/json", **cluster.headers}
        self._pool = pool
        self._idle: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()
        for _ in range(_AT_ONCE):
            self._idle.put(http.client.HTTPSConnection(str(place.hostname), place.port, context=cluster.tls, timeout=60))

    @classmethod
    @contextmanager
    def over(cls, cluster: Cluster) -> Iterator[DryRuns]:
        """For the block."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            runs = cls(cluster, pool)
            yield runs
        for _ in range(_AT_ONCE):
            runs._idle.get().close()

    def create(self, spec: Any, name: str = "dry-run") -> Answer:
        """What would become of a resource with this spec."""
        manifest = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}, "spec": spec}
        body = json.dumps(manifest, allow_nan=False)
        connection = self._idle.get()
        try:
            connection.request("POST", _PATH, body, self._headers)
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read()))
        finally:
            self._idle.put(connection)

    def create_all(self, specs: Sequence[Any]) -> list[Answer]:
        """The same for many at once."""
        return list(self._pool.map(self.create, specs))
