"""The rounds of the pods in virtual time: how fast they go, and what they tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import pytest
from tests.unit.operator.test_leading import Listings, resource

from dtesn_api.schema import to_wire
from dtesn_operator.desired import Cluster
from dtesn_operator.events import Recorder
from dtesn_operator.kinds import POD
from dtesn_operator.observe import observed_of
from dtesn_operator.observing import DOUBT, FIRST_PER_SECOND, MOST_WAITED, PER_SECOND, Rounds
from dtesn_operator.pods import Pod
from dtesn_operator.probe import Probe
from dtesn_operator.reconcile import Memory, Reconciler
from dtesn_operator.store import Key, Store
from dtesn_operator.visits import Visits

pytestmark = pytest.mark.looptime
BODY: dict[str, Any] = {"current_batch_size": 8, "pending_requests": 0}


def pod(owner: str, number: int) -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": owner}
    name = f"{owner}-{number}"
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels}
    status = {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": POD.kind, "metadata": metadata, "status": status}


class Answers(Probe):
    """Pods that answer at once, unless they are silent."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.silent = False
        self.load: Callable[[float], float] = lambda _: 0.2  # of any pod at a time

    async def ask(self, pods: Sequence[Pod], port: int, path: str) -> dict[Pod, dict[str, Any] | None]:
        assert (port, path) == (8080, "/dtesn/batch_metrics")
        now = asyncio.get_running_loop().time()
        self.times += [now] * len(pods)
        return dict.fromkeys(pods, None if self.silent else {**BODY, "server_load": {"queue": {"value": self.load(now), "weight": 1.0}}})


class Bench:
    """Resources with two ready pods each, once reconciled."""

    def __init__(self, session: aiohttp.ClientSession, count: int) -> None:
        self.probe, store, client = Answers(), Store(), Listings()
        self.told: list[str] = []
        self.clock = asyncio.get_running_loop().time
        self.reconciler = Reconciler(
            client=client,
            store=store,
            cluster=Cluster("a:1"),
            visits=Visits(client, self.probe),
            recorder=Recorder(client, "one", lambda: "", self.clock),
            clock=self.clock,
            wall=lambda: "",
        )
        for number in range(count):
            name = f"r{number}"
            store.seen(resource(name))
            store.seen(pod(name, 0))
            store.seen(pod(name, 1))
            self.reconciler.memories[f"uid-{name}"] = Memory()
        self.busy = False
        self.rounds = Rounds(self.reconciler, self._changed, lambda: self.busy)

    def _changed(self, key: Key) -> None:
        """Write the figures, as a reconcile does."""
        self.told.append(key.name)
        memory = self.reconciler.memories[f"uid-{key.name}"]
        assert memory.reading is not None
        figures = observed_of(memory.reading.bodies)
        found = self.reconciler.store.resource(key)
        assert found is not None
        version = str(int(found["metadata"]["resourceVersion"]) + 1)
        status = {"observed": to_wire(figures)} if figures is not None else {}
        self.reconciler.store.seen({**found, "metadata": {**found["metadata"], "resourceVersion": version}, "status": status})

    async def run(self, seconds: float) -> None:
        """Go round for so long."""
        running = asyncio.ensure_future(self.rounds.run())
        await asyncio.sleep(seconds)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as session:
        yield Bench(session, 300)


async def test_the_first_figures_come_fast_and_the_next_ones_at_leisure(bench: Bench) -> None:
    began = bench.clock()
    await bench.run(600 / FIRST_PER_SECOND + 600 / PER_SECOND + 1)
    first, second = bench.probe.times[:600], bench.probe.times[600:1200]
    assert first[-1] - began <= 600 / FIRST_PER_SECOND
    assert second[-1] - second[0] == pytest.approx(600 / PER_SECOND, rel=0.02)
    assert sorted(bench.told) == sorted(f"r{number}" for number in range(300))


async def test_figures_that_stay_are_told_once(bench: Bench) -> None:
    await bench.run(1000)
    assert len(bench.told) == 300


async def test_a_load_that_was_there_for_a_moment_is_not_told(bench: Bench) -> None:
    await bench.run(60)
    assert len(bench.told) == 300
    bench.probe.load = lambda now: 0.9 if now % 60 < DOUBT / 2 else 0.2
    await bench.run(1000)
    assert len(bench.told) == 300


async def test_a_load_that_stays_is_told_once_it_was_seen_twice(bench: Bench) -> None:
    began = bench.clock()
    bench.probe.load = lambda now: 0.2 if now - began < 60 else 0.9
    await bench.run(60)
    assert len(bench.told) == 300
    await bench.run(2 * 600 / PER_SECOND + 2 * DOUBT)
    assert sorted(bench.told[300:]) == sorted(f"r{number}" for number in range(300))


async def test_a_resource_whose_pods_are_silent_is_told_once_and_asked_ever_less(bench: Bench) -> None:
    bench.probe.silent = True
    await bench.run(1000)
    assert len(bench.told) == 300
    assert len(bench.probe.times) < 600 * 1000 / 15 / 4


async def test_a_resource_that_has_gone_is_not_asked(bench: Bench) -> None:
    bench.reconciler.store.gone(resource("r7"))
    await bench.run(60)
    assert "r7" not in bench.told
    assert bench.reconciler.memory(Key("shop", "r7")) is None


async def test_while_resources_wait_for_a_worker_figures_wait_but_not_for_ever(bench: Bench) -> None:
    bench.busy = True
    began = bench.clock()
    await bench.run(MOST_WAITED + 10)
    assert bench.probe.times[0] - began == pytest.approx(MOST_WAITED, abs=1.0)
    assert bench.probe.times[100] - bench.probe.times[0] <= 100 / FIRST_PER_SECOND + 1.0
