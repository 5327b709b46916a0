"""The election in virtual time: whatever happens to the API server and to the replicas, never two act, and soon one does."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import pytest
from bench.virtual import VirtualLoop, virtual
from hypothesis import given
from hypothesis import strategies as st

from dtesn_operator.elector import Elector, Timing
from dtesn_operator.errors import ApiFailed, ApiUnreachable

State = Literal["up", "refused", "hung", "lossy", "503"]
TIMING = Timing()
OUTAGE = 600.0
IDENTITIES = ("one", "two", "three")


@dataclass
class Server:
    """A Lease with optimistic concurrency, as an API server keeps it, and what happens to it on each replica's way."""

    lease: dict[str, Any] | None = None
    version: int = 0
    states: dict[str, State] = field(default_factory=dict)

    def get(self) -> dict[str, Any]:
        if self.lease is None:
            raise ApiFailed("no lease", status=404)
        return copy.deepcopy(self.lease)

    def put(self, body: dict[str, Any], *, new: bool) -> dict[str, Any]:
        known = None if self.lease is None else self.lease["metadata"]["resourceVersion"]
        if (new and known is not None) or (not new and body["metadata"].get("resourceVersion") != known):
            raise ApiFailed("changed", status=409)
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return copy.deepcopy(self.lease)


class Way:
    """A replica's client: every call takes a moment, and the server's state decides what becomes of it."""

    def __init__(self, server: Server, identity: str) -> None:
        self._server, self._identity = server, identity

    async def call(self, method: str, path: str, body: Any = None, *, seconds: float = 30.0) -> Any:
        state = self._server.states.get(self._identity, "up")
        await asyncio.sleep(0.01)
        if state == "refused":
            raise ApiUnreachable("refused")
        if state == "503":
            raise ApiFailed("unavailable", status=503)
        if state == "hung":
            await asyncio.sleep(seconds)
            raise ApiUnreachable("no answer")
        answer = self._server.get() if method == "GET" else self._server.put(body, new=method == "POST")
        if state == "lossy":  # carried out, and the answer is lost
            await asyncio.sleep(seconds)
            raise ApiUnreachable("no answer")
        return answer


@dataclass
class Replica:
    """An elector, the times at which its work began and ended, and whether its process was killed."""

    elector: Elector
    works: list[list[float]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def work(self) -> None:
        """Act, ten times a second, until cancelled."""
        self.works.append([now(), now()])
        while True:
            if self.elector.may_act():
                self.works[-1][1] = now()
            await asyncio.sleep(0.1)


def now() -> float:
    return asyncio.get_running_loop().time()


def replicas(server: Server, identities: Sequence[str]) -> dict[str, Replica]:
    found = {}
    for one in identities:
        elector = Elector(Way(server, one), "shop", "lease", one, wall=lambda: "now", timing=TIMING)
        found[one] = Replica(elector)
        found[one].task = asyncio.ensure_future(elector.run(found[one].work))
    return found


async def ended(found: dict[str, Replica]) -> None:
    for one in found.values():
        one.task.cancel()
    await asyncio.gather(*(one.task for one in found.values()), return_exceptions=True)


def never_two(found: dict[str, Replica]) -> None:
    """No span of work overlaps another replica's."""
    spans = sorted((began, last, name) for name, one in found.items() for began, last in one.works)
    for (_, last, name), (began, _, other) in pairwise(spans):
        assert last < began or name == other, f"{name} acted until {last}, {other} from {began}"


STATES = st.sampled_from(["up", "refused", "hung", "lossy", "503"])
CHANGES = st.tuples(st.floats(0.1, 40), st.sampled_from((*IDENTITIES, "all")), STATES)


@given(st.lists(CHANGES, max_size=20))
def test_never_two_act_and_one_does_soon_after_all_is_well(changes: list[tuple[float, str, State]]) -> None:
    async def scenario() -> None:
        server = Server()
        found = replicas(server, IDENTITIES)
        for seconds, whose, state in changes:
            await asyncio.sleep(seconds)
            server.states |= {one: state for one in IDENTITIES if whose in (one, "all")}
        server.states.clear()
        await asyncio.sleep(TIMING.duration + TIMING.deadline + 2 * TIMING.period)  # a hung call may have to end first
        assert [one for one in found.values() if one.elector.may_act()]
        await ended(found)
        never_two(found)

    virtual(scenario())


@pytest.mark.parametrize("state", ["refused", "hung", "503"])
def test_an_outage_of_ten_minutes_stops_the_work_and_does_not_end_the_election(state: State) -> None:
    async def scenario() -> None:
        server = Server()
        found = replicas(server, IDENTITIES[:2])
        await asyncio.sleep(5)
        (leader,) = [name for name, one in found.items() if one.elector.may_act()]
        server.states = dict.fromkeys(IDENTITIES, state)
        await asyncio.sleep(TIMING.deadline + 0.5)
        assert not any(one.elector.may_act() or one.elector.leading for one in found.values())
        await asyncio.sleep(OUTAGE)
        assert not any(one.task.done() for one in found.values())
        server.states.clear()
        await asyncio.sleep(TIMING.deadline + 2 * TIMING.period)
        assert sum(one.elector.may_act() for one in found.values()) == 1
        await ended(found)
        never_two(found)
        assert found[leader].works

    virtual(scenario())


def test_a_killed_leader_is_followed_within_twenty_seconds() -> None:
    async def scenario() -> None:
        server = Server()
        found = replicas(server, ("one",))
        await asyncio.sleep(5)
        found |= replicas(server, ("two",))
        await asyncio.sleep(5)
        server.states["one"] = "hung"  # nothing of it reaches the server any more, nor is its lease given back
        killed = now()
        found["one"].task.cancel()
        await asyncio.sleep(20)
        ((began, _),) = found["two"].works
        assert began - killed < 20
        await ended(found)

    virtual(scenario())


def test_a_leader_that_ends_is_followed_at_once() -> None:
    async def scenario() -> None:
        server = Server()
        found = replicas(server, ("one",))
        await asyncio.sleep(5)
        found |= replicas(server, ("two",))
        await asyncio.sleep(5)
        await ended({"one": found["one"]})
        await asyncio.sleep(2 * TIMING.period)
        assert found["two"].elector.may_act()
        await ended(found)
        never_two(found)

    virtual(scenario())


def test_a_process_that_stood_still_knows_at_once_that_it_may_not_act() -> None:
    """After SIGCONT the clock has moved and nothing else has happened yet."""

    async def scenario() -> None:
        found = replicas(Server(), ("one",))
        await asyncio.sleep(5)
        assert found["one"].elector.may_act()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.selector.now += TIMING.deadline
        assert not found["one"].elector.may_act()
        await ended(found)

    virtual(scenario())
