"""Two replicas of the operator: exactly one acts, whatever happens to it, to the API server or to the way between them."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import count, groupby
from pathlib import Path

import pytest
from tests.cluster.audit import mark, writes
from tests.cluster.batchers import Cluster, batcher
from tests.cluster.cluster import until
from tests.cluster.control_plane import ControlPlane
from tests.cluster.faults import hung, refused
from tests.cluster.faulty import FaultyWay
from tests.cluster.operator_process import Replica, replica

from dtesn_api import names
from dtesn_operator.running import LEASE

IDENTITIES = ("one", "two")
AGENTS = {f"{names.FIELD_MANAGER}/{one}": one for one in IDENTITIES}
TAKEOVER = 20  # seconds
LEADING = f"{names.METRIC_OPERATOR_LEADING} 1.0"
LOST = "the lease was not renewed in time"
Away = Callable[[ControlPlane], AbstractContextManager[None]]
_numbers = count(1)


@pytest.fixture
def cluster(own_control_plane: ControlPlane) -> Iterator[Cluster]:
    name = f"pair-{next(_numbers)}"
    own_control_plane.kubectl("create", "namespace", name)
    yield Cluster(own_control_plane, name)
    own_control_plane.kubectl("delete", "namespace", name, "--wait=false")


class Pair:
    """Two replicas, each with a way to the API server of its own, by which the audit log tells them apart."""

    def __init__(self, cluster: Cluster, ways: dict[str, FaultyWay], replicas: dict[str, Replica]) -> None:
        self.cluster, self.ways, self.replicas = cluster, ways, replicas
        self._since = mark(cluster.plane)

    def leading(self) -> list[str]:
        """Those that say that they lead, by their own metrics."""
        return [one for one, running in self.replicas.items() if running.daemon.running and LEADING in metrics(running)]

    def holder(self) -> str:
        """Whose the lease is."""
        return str(self.cluster.get(f"lease/{LEASE}")["spec"]["holderIdentity"])

    def leader(self) -> tuple[str, str]:
        """Who leads, and who does not, once exactly one does and the lease says so."""
        until(lambda: self.leading() == [self.holder()], 60, what="one leader")
        (one,) = self.leading()
        return one, next(other for other in IDENTITIES if other != one)

    def acted(self) -> list[str]:
        """Who wrote, one after the other: each name once, unless they took turns."""
        ours = [write.agent for write in writes(self.cluster.plane, self.cluster.namespace, self._since) if write.agent in AGENTS]
        return [AGENTS[agent] for agent, _ in groupby(ours)]


@pytest.fixture
def pair(cluster: Cluster, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        ways = {one: stack.enter_context(FaultyWay.to(cluster.plane, f"/{one}")) for one in IDENTITIES}
        replicas = {}
        for one, way in ways.items():
            kubeconfig = cluster.plane.write_kubeconfig(f"{cluster.namespace}-{one}", {}, server=way.url)
            shop = cluster.namespace
            running = replica(tmp_path, kubeconfig, namespaces=[shop], lease_namespace=shop, identity=one)
            replicas[one] = stack.enter_context(running)
        yield Pair(cluster, ways, replicas)


def metrics(running: Replica) -> str:
    """What it says of itself; nothing where it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/metrics", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def work(cluster: Cluster, name: str) -> None:
    """Something new that whoever leads has to do, done."""
    cluster.apply(batcher(name))
    cluster.until_ready(name, 90)


def test_one_of_two_acts_and_the_other_takes_over_when_it_is_killed(cluster: Cluster, pair: Pair) -> None:
    leader, other = pair.leader()
    cluster.apply(*(batcher(f"shop-{number}") for number in range(4)))
    for number in range(4):
        cluster.until_ready(f"shop-{number}", 90)
    assert pair.acted() == [leader]
    pair.replicas[leader].kill()
    cluster.kubectl("delete", "service/shop-0")
    cluster.apply(batcher("next"))
    until(lambda: pair.leading() == [other], TAKEOVER, what="a new leader")
    cluster.until_ready("next", 60)
    until(lambda: cluster.exists("service/shop-0"), 60, what="a repair")
    assert pair.acted() == [leader, other]


def test_a_leader_that_ends_hands_over_at_once(cluster: Cluster, pair: Pair) -> None:
    leader, other = pair.leader()
    work(cluster, "first")
    pair.replicas[leader].daemon.stop(30)
    assert pair.holder() != leader  # given back, so that nobody waits for its end
    until(lambda: pair.leading() == [other], what="a new leader")
    work(cluster, "second")
    assert pair.acted() == [leader, other]


@pytest.mark.parametrize("away", [refused, hung], ids=["killed", "stopped"])
def test_exactly_one_acts_before_and_after_an_api_server_that_was_away(cluster: Cluster, pair: Pair, away: Away) -> None:
    leader, _ = pair.leader()
    work(cluster, "first")
    with away(cluster.plane):
        until(lambda: LOST in pair.replicas[leader].log(), 60, what="an end of the work")
        assert pair.leading() == []
    successor, _ = pair.leader()
    work(cluster, "second")
    assert pair.acted() == list(dict.fromkeys([leader, successor]))


def test_a_leader_whose_way_hangs_stops_before_the_other_begins_and_stays_behind(cluster: Cluster, pair: Pair) -> None:
    leader, other = pair.leader()
    work(cluster, "first")
    pair.ways[leader].fault = lambda _call: "hang"
    pair.ways[leader].cut_watches()
    cluster.kubectl("delete", "service/first")
    until(lambda: pair.leading() == [other], 60, what="a new leader")
    assert LOST in pair.replicas[leader].log()
    pair.ways[leader].fault = lambda _call: None
    work(cluster, "second")
    until(lambda: cluster.exists("service/first"), 60, what="a repair")
    assert pair.leader() == (other, leader)
    assert pair.acted() == [leader, other]


def test_a_leader_that_was_stopped_for_a_while_does_not_act_on_what_it_still_believes(cluster: Cluster, pair: Pair) -> None:
    leader, other = pair.leader()
    work(cluster, "first")
    cluster.apply(*(batcher(f"shop-{number}") for number in range(8)))  # so that it is stopped at work
    until(lambda: cluster.exists("serviceaccount/shop-0"), what="the beginning")
    pair.replicas[leader].pause()
    until(lambda: pair.holder() == other, 60, what="a new leader")
    work(cluster, "second")
    cluster.kubectl("delete", "service/first", "deployment/second")
    pair.replicas[leader].resume()
    until(lambda: pair.leading() == [other], what="an end of the work")
    work(cluster, "third")
    for number in range(8):
        cluster.until_ready(f"shop-{number}", 60)
    assert pair.acted() == [leader, other]
