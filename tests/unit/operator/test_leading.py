"""The leader's work in virtual time: failures, troubles, ghosts and pods without a sidecar. The API server is one that has nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from dtesn_operator.client import Client
from dtesn_operator.desired import Cluster
from dtesn_operator.errors import ApiUnreachable
from dtesn_operator.events import Recorder
from dtesn_operator.kinds import DTESN_BATCHER, POD, POD_MONITOR, Kind, Manifest, ObjectKey, key_of
from dtesn_operator.leading import INJECTED_EVERY, LISTED_PAUSE, RESYNC_EVERY, Leader
from dtesn_operator.metrics import Metrics
from dtesn_operator.probe import Probe
from dtesn_operator.reconcile import Memory, Next, Reconciler
from dtesn_operator.store import Key, Store
from dtesn_operator.visits import Visits
from dtesn_operator.workqueue import WorkQueue

pytestmark = pytest.mark.looptime


def resource(name: str) -> Manifest:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"apiVersion": DTESN_BATCHER.api_version, "kind": DTESN_BATCHER.kind, "metadata": metadata, "spec": {}}


class Listings(Client):
    """Lists what it is given, or fails."""

    def __init__(self) -> None:
        self.there: dict[Kind, list[Manifest]] = {}
        self.down = False

    async def list(self, kind: Kind, *_: Any, **__: Any) -> AsyncIterator[Manifest]:
        if self.down:
            raise ApiUnreachable("down")
        for one in self.there.get(kind, []):
            yield one

    async def uids(self, kind: Kind, *_: Any, **__: Any) -> AsyncIterator[tuple[ObjectKey, str]]:
        async for one in self.list(kind):
            yield key_of(one), one["metadata"]["uid"]


class Bench:
    """A leader whose reconciles are a function of the test."""

    def __init__(self, session: aiohttp.ClientSession, *names: str) -> None:
        self.client, self.store = Listings(), Store()
        self.queue: WorkQueue[Key] = WorkQueue(lambda: 0.0)
        self.metrics = Metrics()
        self.times: dict[str, list[float]] = {}
        self.answers: Callable[[str], Next] = lambda _: Next()
        self.reconciler = Reconciler(
            client=self.client,
            store=self.store,
            cluster=Cluster("a:1"),
            visits=Visits(self.client, Probe(session)),
            recorder=Recorder(self.client, "one", lambda: "", asyncio.get_running_loop().time),
            clock=asyncio.get_running_loop().time,
            wall=lambda: "",
        )
        self.reconciler._reconcile = self._reconcile  # type: ignore[method-assign]
        self.leader = Leader(self.client, self.reconciler, self.queue, self.metrics, ())
        self.leader._rounds.run = asyncio.Event().wait  # type: ignore[method-assign,assignment] # its looks at pods are not counted here
        self.client.there[DTESN_BATCHER] = [resource(name) for name in names]
        for name in names:
            self.store.seen(resource(name))

    async def _reconcile(self, key: Key) -> Next:
        self.times.setdefault(key.name, []).append(asyncio.get_running_loop().time())
        self.reconciler.memories.setdefault(f"uid-{key.name}", Memory())
        return self.answers(key.name)

    async def lead(self, seconds: float) -> None:
        """Lead for so long."""
        leading = asyncio.ensure_future(self.leader.run())
        await asyncio.sleep(seconds)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    def sidecarless(self, name: str) -> tuple[str, ...]:
        """The pods of a resource that are without the sidecar."""
        memory = self.reconciler.memory(Key("shop", name))
        assert memory is not None
        return memory.sidecarless

    def count(self, outcome: str) -> float:
        """Reconciles of that outcome."""
        found = self.metrics.registry.get_sample_value("dtesn_operator_reconciles_total", {"outcome": outcome})
        assert found is not None
        return found


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as session:
        yield Bench(session, "good", "bad")


async def test_every_resource_is_looked_at_at_the_start_and_whatever_is_not_in_order_at_every_resync(bench: Bench) -> None:
    bench.answers = lambda name: Next(after=1000.0 if name == "bad" else None)
    await bench.lead(2 * RESYNC_EVERY + 1)
    assert [round(at / RESYNC_EVERY) for at in bench.times["bad"]] == [0, 1, 2]
    assert [round(at / RESYNC_EVERY) for at in bench.times["good"]] == [0]


async def test_a_resource_that_changed_since_it_was_looked_at_is_looked_at_at_the_next_resync(bench: Bench) -> None:
    leading = asyncio.ensure_future(bench.lead(2 * RESYNC_EVERY + 1))
    await asyncio.sleep(1)
    bench.store.seen({**resource("good"), "spec": {"replicas": 3}})  # and no event was heard of it
    await leading
    assert [round(at / RESYNC_EVERY) for at in bench.times["good"]] == [0, 1]


async def test_other_kinds_in_the_cluster_are_a_reason_to_look_at_everything(bench: Bench) -> None:
    leading = asyncio.ensure_future(bench.lead(100))
    await asyncio.sleep(1)
    bench.reconciler.cluster = replace(bench.reconciler.cluster, available=frozenset({POD_MONITOR}))
    bench.leader.resync.set()
    await leading
    assert len(bench.times["good"]) == len(bench.times["bad"]) == 2


async def test_a_fault_in_one_resource_is_tried_again_with_growing_delays_and_stops_no_other(bench: Bench) -> None:
    def answers(name: str) -> Next:
        if name == "bad":
            raise ZeroDivisionError
        return Next()

    bench.answers = answers
    await bench.lead(60)
    pauses = [after - before for before, after in pairwise(bench.times["bad"])]
    assert len(pauses) > 5
    assert [round(pause, 6) for pause in pauses] == sorted(round(pause, 6) for pause in pauses)
    assert len(bench.times["good"]) == 1
    assert (bench.count("ok"), bench.count("failed")) == (1, len(bench.times["bad"]))


async def test_a_trouble_comes_again_by_itself_though_nothing_happens(bench: Bench) -> None:
    bench.answers = lambda name: Next(troubled=name == "bad")
    await bench.lead(299)
    assert max(after - before for before, after in pairwise(bench.times["bad"])) <= 60.001
    assert bench.count("failed") == 0


async def test_a_resource_that_wants_another_look_gets_it_then(bench: Bench) -> None:
    bench.answers = lambda name: Next(after=7.0 if len(bench.times[name]) == 1 else None)
    await bench.lead(100)
    assert [round(at) for at in bench.times["good"]] == [0, 7]


async def test_what_a_listing_does_not_find_is_a_ghost_and_forgotten(bench: Bench) -> None:
    bench.client.there[DTESN_BATCHER] = [resource("good")]
    await bench.lead(10)
    assert bench.store.resources() == [Key("shop", "good")]
    assert bench.metrics.registry.get_sample_value("dtesn_operator_ghosts_total") == 1


async def test_what_ended_while_a_watch_was_away_is_found_once_it_has_listed_anew_though_the_first_look_fails(bench: Bench) -> None:
    leading = asyncio.ensure_future(bench.lead(60))
    await asyncio.sleep(1)
    del bench.client.there[DTESN_BATCHER][1]
    bench.client.down = True
    bench.leader.listed.set()
    await asyncio.sleep(LISTED_PAUSE + 1)
    assert bench.store.resource(Key("shop", "bad")) is not None
    bench.client.down = False
    await leading
    assert bench.store.resource(Key("shop", "bad")) is None
    assert (len(bench.times["good"]), len(bench.times["bad"])) == (1, 2)


async def test_nothing_is_done_before_the_watches_have_brought_what_there_is(bench: Bench) -> None:
    late = resource("late")
    bench.client.there[DTESN_BATCHER].append(late)
    leading = asyncio.ensure_future(bench.lead(20))
    await asyncio.sleep(2)
    assert bench.times == {}
    bench.store.seen(late)
    bench.leader.stirred.set()
    await asyncio.sleep(1)
    assert set(bench.times) == {"good", "bad", "late"}
    await leading


async def test_an_object_that_never_comes_does_not_hold_up_the_work_for_ever(bench: Bench) -> None:
    bench.client.there[DTESN_BATCHER].append(resource("gone since"))
    await bench.lead(20)
    assert "good" in bench.times


async def test_with_the_api_server_away_the_leader_waits_and_goes_on(bench: Bench) -> None:
    bench.client.down = True
    leading = asyncio.ensure_future(bench.lead(700))
    await asyncio.sleep(600)
    assert bench.times == {}
    bench.client.down = False
    await leading
    assert set(bench.times) == {"good", "bad"}


async def test_a_pod_without_the_sidecar_that_it_asked_for_is_remembered_until_it_is_gone(bench: Bench) -> None:
    metadata = {"name": "shop-1", "namespace": "shop", "labels": {"dtesn.dev/inject": "good"}}
    leading = asyncio.ensure_future(bench.lead(4 * INJECTED_EVERY))
    await asyncio.sleep(1)
    bench.client.there[POD] = [{"metadata": metadata, "spec": {"containers": [{"name": "app"}]}}]
    await asyncio.sleep(INJECTED_EVERY)
    assert bench.sidecarless("good") == ("shop-1",)
    bench.client.there[POD] = []
    await asyncio.sleep(INJECTED_EVERY)
    assert bench.sidecarless("good") == ()
    await leading
    assert len(bench.times["good"]) == 3
