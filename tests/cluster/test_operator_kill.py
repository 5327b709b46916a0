"""The operator is killed (SIGKILL) at a hundred random points while resources come, change, are tampered with and go.

Points are chosen by the operator's writes, counted on their way to the API server: before a write arrives, after it has and before
its answer, a moment later; and by time, while it starts. What is left in the end must be what is left without a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.batchers import batcher
from tests.cluster.cluster import Cluster, until
from tests.cluster.faulty import Call, Fault, FaultyWay
from tests.cluster.forks import Forks

from dtesn_api import names
from dtesn_operator.client import path_of
from dtesn_operator.kinds import DTESN_BATCHER, OWNED, POD, Kind
from dtesn_operator.plan import ANNOTATION_APPLIED

NAMESPACES, KILLS = 5, 20  # of each: a hundred in all
MOST_WRITES = 7  # between two kills
SEED = 20261125
PATIENCE = 180  # seconds, on a machine that has other work too
KINDS = tuple(kind for kind in OWNED if not kind.optional)
KINDS_BY_NAME = {kind.kind: kind for kind in (*KINDS, DTESN_BATCHER)}
REPLICA_SET = Kind("apps", "v1", "replicasets", "ReplicaSet")
FOREIGN = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "d", "labels": {"mine": "yes"}},
    "spec": {"ports": [{"port": 7}]},
}
FIRST: dict[str, dict[str, Any]] = {
    "a": {
        "networkPolicy": {"enabled": True},
        "disruptionBudget": {"enabled": True},
        "sidecar": {"env": [{"name": "EXTRA", "value": "1"}]},
    },
    "b": {"batching": {"targetBatchSize": 4}},
    "c": {"disruptionBudget": {"enabled": True}},
    "d": {},
}
LAST: dict[str, dict[str, Any]] = {
    "a": {"networkPolicy": {"enabled": True}, "autoscaling": {"enabled": True, "target": "cpu"}, "batching": {"maxBatchSize": 48}},
    "b": {"image": {"repository": "registry.example/other", "tag": "2"}},
    "d": {},
}


@pytest.mark.timeout(900)
def test_an_operator_killed_at_a_hundred_random_points_leaves_what_it_would_have_left_without(
    control_plane: Cluster, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        forks = stack.enter_context(Forks.running(tmp_path))
        urls = stack.enter_context(_kubelets(control_plane))
        worlds = [stack.enter_context(_world(control_plane, forks, urls, tmp_path, number)) for number in range(NAMESPACES + 1)]
        with ThreadPoolExecutor(len(worlds)) as threads:
            for done in [threads.submit(world.live) for world in worlds]:
                done.result()
        reference, *killed = worlds
        assert [world.operator.left for world in killed] == [0] * NAMESPACES
        assert reference.state()["DTESNBatcher"].keys() == LAST.keys()
        for world in killed:
            _until_equal(world.state, reference.state())
            world.until_no_orphans()
            assert world.get(KINDS_BY_NAME["Service"], "d")["metadata"]["labels"] == {"mine": "yes"}
            world.nothing_more_is_written()


@dataclass
class Operator:
    """The operator of a namespace, started anew after each kill. `fault` is told every call on its way."""

    start: Callable[[], int]
    random: random.Random
    left: int
    writes: int = 0
    pid: int = 0
    again: bool = True
    _next: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Start it, perhaps only to kill it while it starts."""
        self.pid = self.start()
        self._next = self.writes + self.random.randint(1, MOST_WRITES)
        if self.left and self.random.random() < 0.15:
            self._kill_later(self.random.uniform(0.0, 0.8))

    def fault(self, call: Call) -> Fault:
        """Count a write, and kill if its turn has come."""
        if call.method == "GET" or "/leases" in call.path:
            return None
        self.writes += 1
        if not self.left or self.writes < self._next:
            return None
        self._next = self.writes + 1000  # until the next one is there
        how = self.random.choice(["before", "meanwhile", "after"])
        if how == "after":
            self._kill_later(self.random.uniform(0.0, 0.05))
            return None
        self.kill(self.pid)
        return "cut" if how == "before" else None

    def kill(self, pid: int) -> None:
        """SIGKILL to this one, unless it has been killed, and the next one comes."""
        with self._lock:
            if pid != self.pid or not self.again:
                return
            os.kill(pid, signal.SIGKILL)
            if self.left:
                self.left -= 1
            self.begin()

    def end(self) -> None:
        """SIGKILL, and no next one."""
        with self._lock:
            self.again = False
            os.kill(self.pid, signal.SIGKILL)

    def _kill_later(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.kill, [self.pid])
        timer.daemon = True
        timer.start()


@dataclass
class World:
    """A namespace with its operator, and the scenario that plays in it."""

    cluster: Cluster
    namespace: str
    operator: Operator
    way: FaultyWay
    log: Path

    def live(self) -> None:
        """The scenario, again and again until all kills are spent."""
        self.send("POST", KINDS_BY_NAME["Service"], FOREIGN)
        ends = time.monotonic() + 2 * PATIENCE
        while True:
            last = self.operator.left == 0
            self._round()
            if last:
                break
            assert time.monotonic() < ends, f"{self.operator.left} kills are left; the end of the log:\n{self.log.read_text()[-2000:]}"
        until(self._settled, PATIENCE, what=f"rest in {self.namespace}")

    def _round(self) -> None:
        for name, spec in FIRST.items():
            self.apply(name, spec)
        self._meanwhile()
        for name in ("a", "b"):
            self.apply(name, LAST[name])
        self._meanwhile()
        self.delete(KINDS_BY_NAME["Service"], "a")
        self.delete(KINDS_BY_NAME["ServiceAccount"], "c")
        self.edit(KINDS_BY_NAME["Deployment"], "b", {"spec": {"replicas": 7}})
        self.edit(KINDS_BY_NAME["ConfigMap"], "a", {"data": {names.CONFIG_FILE: "batching: {maxBatchSize: 1}"}})
        self._meanwhile()
        self.delete(DTESN_BATCHER, "c")
        self.delete(DTESN_BATCHER, "b")
        self._meanwhile()
        self.apply("b", LAST["b"])
        self._meanwhile()

    def _meanwhile(self) -> None:
        """Go on at once, after a few writes, or once all is quiet."""
        after = self.operator.writes + self.operator.random.choice([0, 3, 10_000])
        until(lambda: self.operator.writes >= after or self._settled(), PATIENCE, what=f"rest in {self.namespace}")

    def _settled(self) -> bool:
        """Whether every resource says of itself that all is done."""
        return all(_done(one) for one in self.list(DTESN_BATCHER))

    def state(self) -> dict[str, dict[str, Any]]:
        """Everything that is there, by kind and name, without what differs between two namespaces or two lives."""
        found = {
            kind.kind: {one["metadata"]["name"]: _comparable(kind, one) for one in self.list(kind)} for kind in (*KINDS, DTESN_BATCHER)
        }
        found["ServiceAccount"].pop("default", None)
        found["ConfigMap"].pop("kube-root-ca.crt", None)
        found["Pod"] = {name: len([pod for pod in self.list(POD) if _owner(pod) == name]) for name in LAST}
        return json.loads(json.dumps(found).replace(self.namespace, "NAMESPACE"))

    def until_no_orphans(self) -> None:
        """Wait until whoever controls an object is there. One that nobody controls was not made by the operator."""

        def controlled() -> bool:
            everything = [one for kind in (*KINDS, REPLICA_SET, POD, DTESN_BATCHER) for one in self.list(kind)]
            alive = {one["metadata"]["uid"] for one in everything}
            owners = [owner for one in everything for owner in one["metadata"].get("ownerReferences") or () if owner.get("controller")]
            return all(owner["uid"] in alive for owner in owners)

        until(controlled, 60, what=f"an end of orphans in {self.namespace}")

    def nothing_more_is_written(self) -> None:
        """A fresh start finds nothing to do: by the time another resource is done, none of the others was written to."""
        self.operator.kill(self.operator.pid)
        before = len(self.way.calls)
        self.apply("z", {})
        until(lambda: _done(self.get(DTESN_BATCHER, "z") or {}), 60, what="z done")
        written = [call for call in self.way.calls[before:] if call.method != "GET" and "/leases" not in call.path]
        assert [call for call in written if any(f"/{name}" in call.path.removesuffix("/status")[-2:] for name in LAST)] == []

    def apply(self, name: str, spec: Mapping[str, Any]) -> None:
        """Server-side apply, as a person."""
        query = "fieldManager=person&force=true"
        self.send("PATCH", DTESN_BATCHER, batcher(name, **spec), name=name, query=query, content="application/apply-patch+yaml")

    def edit(self, kind: Kind, name: str, patch: Mapping[str, Any]) -> None:
        """A merge patch, as a person; nothing where there is no such object at the moment."""
        with suppress(FileNotFoundError):
            self.send("PATCH", kind, patch, name=name, query="fieldManager=person", content="application/merge-patch+json")

    def delete(self, kind: Kind, name: str) -> None:
        """Delete it, if it is there."""
        with suppress(FileNotFoundError):
            self.send("DELETE", kind, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}, name=name)

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """An object, or None."""
        status, body = self.cluster.get_url(path_of(kind, self.namespace, name))
        return json.loads(body) if status == 200 else None

    def list(self, kind: Kind) -> list[dict[str, Any]]:
        """All of a kind."""
        status, body = self.cluster.get_url(path_of(kind, self.namespace))
        assert status == 200, body
        return json.loads(body)["items"]

    def send(self, method: str, kind: Kind, body: Any, *, name: str = "", query: str = "", content: str = "application/json") -> None:
        """A write that must succeed. Raises FileNotFoundError where there is no such object."""
        url = f"{self.cluster.url}{path_of(kind, self.namespace, name or None)}?{query}"
        headers = {**self.cluster.headers, "Content-Type": content}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.cluster.tls):
                pass
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    raise FileNotFoundError(url) from None
                raise AssertionError(error.read()) from error


@contextmanager
def _world(cluster: Cluster, forks: Forks, urls: str, folder: Path, number: int) -> Iterator[World]:
    """A namespace with an operator; the first one's is never killed."""
    namespace = f"kill-{os.getpid()}-{number}"
    cluster.kubectl("create", "namespace", namespace)
    with FaultyWay.to(cluster) as way:
        kubeconfig = cluster.write_kubeconfig(f"through-{namespace}", {}, server=way.url)

        def start() -> int:
            return forks.start(kubeconfig=kubeconfig, namespace=namespace, urls=f"{urls}/{namespace}")

        operator = Operator(start, random.Random(SEED + number), KILLS if number else 0)
        way.fault = operator.fault
        operator.begin()
        try:
            yield World(cluster, namespace, operator, way, forks.log(namespace))
        finally:
            operator.end()
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@contextmanager
def _kubelets(cluster: Cluster) -> Iterator[str]:
    """Pods whose settings are those of their ConfigMap at any time; the base of their URLs, below which come namespace and pod."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, namespace, pod, *rest = self.path.split("/")
            kind = KINDS_BY_NAME["ConfigMap"]
            status, body = cluster.get_url(path_of(kind, namespace, pod.rsplit("-", 2)[0])) if rest == ["config"] else (404, b"")
            said = b"{}"
            if status == 200:
                live = json.loads(body)["data"][names.CONFIG_FILE]
                said = json.dumps({"config_hash": hashlib.sha256(live.encode()).hexdigest()}).encode()
            self.send_response(200 if status == 200 else 404)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _done(resource: Mapping[str, Any]) -> bool:
    """Whether a resource's status is of its present generation and says that nothing is on its way; of `d`, that its name is taken."""
    conditions = {one["type"]: one for one in (resource.get("status") or {}).get("conditions") or ()}
    if not conditions or any(one["observedGeneration"] != resource["metadata"]["generation"] for one in conditions.values()):
        return False
    if resource["metadata"]["name"] == "d":
        return bool(conditions["Degraded"]["reason"] == "NameConflict")
    wanted = {"Ready": "True", "Progressing": "False", "Degraded": "False"}
    return all(conditions[kind]["status"] == status for kind, status in wanted.items())


def _comparable(kind: Kind, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """An object without identity, history and what the cluster chose."""
    metadata = manifest["metadata"]
    history = (ANNOTATION_APPLIED, "deployment.kubernetes.io/revision")
    kept = {
        "labels": metadata.get("labels"),
        "annotations": {name: value for name, value in (metadata.get("annotations") or {}).items() if name not in history},
        "owners": [{**owner, "uid": ""} for owner in metadata.get("ownerReferences") or ()],
        "spec": {name: value for name, value in (manifest.get("spec") or {}).items() if not name.startswith("clusterIP")},
        "data": manifest.get("data"),
    }
    if kind == DTESN_BATCHER:
        status = {name: value for name, value in manifest["status"].items() if name != "observedGeneration"}
        conditions = {one["type"]: (one["status"], one["reason"], one["message"]) for one in status["conditions"]}
        kept["status"] = {**status, "conditions": conditions}
    return kept


def _owner(pod: Mapping[str, Any]) -> str:
    return "" if "deletionTimestamp" in pod["metadata"] else (pod["metadata"].get("labels") or {}).get(names.LABEL_INSTANCE, "")


def _until_equal(state: Callable[[], dict[str, Any]], wanted: dict[str, Any]) -> None:
    """Wait for this state; pytest shows the difference where it never comes."""
    with suppress(AssertionError):
        until(lambda: state() == wanted, 60)
    assert state() == wanted
