"""The operator while the API server is away, silent, forgetful or in trouble: it goes on, and acts on nothing that is gone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import pytest
from tests.cluster.audit import mark, writes
from tests.cluster.batchers import Cluster, batcher
from tests.cluster.cluster import until
from tests.cluster.control_plane import ControlPlane
from tests.cluster.faults import forget, hung, refused
from tests.cluster.faulty import Call, Fault, FaultyWay
from tests.cluster.operator_process import Replica, replica

from dtesn_api import names
from dtesn_operator.elector import Timing

OURS = names.FIELD_MANAGER
LOST = "the lease was not renewed in time"
PATIENT = Timing(duration=180, deadline=120)
Away = Callable[[ControlPlane], AbstractContextManager[None]]
_numbers = count(1)


@pytest.fixture
def cluster(own_control_plane: ControlPlane) -> Iterator[Cluster]:
    name = f"shop-{next(_numbers)}"
    own_control_plane.kubectl("create", "namespace", name)
    yield Cluster(own_control_plane, name)
    own_control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def way(own_control_plane: ControlPlane) -> Iterator[FaultyWay]:
    with FaultyWay.to(own_control_plane) as found:
        yield found


@pytest.fixture
def operator(cluster: Cluster, way: FaultyWay, tmp_path: Path) -> Iterator[Replica]:
    """An operator that reaches the API server by the way with faults. It leads all the time: who begins to lead looks at everything."""
    shop = cluster.namespace
    kubeconfig = cluster.plane.write_kubeconfig(shop, {}, server=way.url)
    with replica(tmp_path, kubeconfig, namespaces=[shop], lease_namespace=shop, timing=PATIENT) as running:
        yield running
        way.fault = lambda _call: None
        assert running.daemon.running, running.log()[-3000:]
        assert LOST not in running.log()


@pytest.mark.parametrize("away", [refused, hung], ids=["killed", "stopped"])
def test_an_api_server_that_comes_back_finds_the_operator_at_work(cluster: Cluster, tmp_path: Path, away: Away) -> None:
    plane, shop = cluster.plane, cluster.namespace
    with replica(tmp_path, plane.kubeconfig, namespaces=[shop], lease_namespace=shop) as operator:
        cluster.apply(batcher(), batcher("other"))
        cluster.until_ready()
        cluster.until_ready("other")
        with away(plane):
            until(lambda: LOST in operator.log(), 60, what="an end of the work")
        cluster.kubectl("delete", "dtesnbatcher/other", "service/demo")
        cluster.apply(batcher(replicas=3), batcher("late"))
        cluster.until_ready("late", 120)
        until(lambda: cluster.get("deployment/demo")["spec"]["replicas"] == 3, 60, what="the replicas")
        until(lambda: cluster.exists("service/demo"), 60, what="the service")
        cluster.until_ready()
        until(lambda: not cluster.exists("deployment/other"), 60, what="the end of the other")
        assert operator.daemon.running


def _held(way: FaultyWay, plural: str) -> None:
    """Cut the watches, and hold that of these when it comes again: what it does not see meanwhile can be compacted away."""
    asked = threading.Event()

    def held(call: Call) -> Fault:
        if call.watch and call.path.endswith(f"/{plural}"):
            asked.set()
            return "hold"
        return None

    way.fault = held
    way.cut_watches()
    assert asked.wait(60)


@pytest.mark.usefixtures("operator")
def test_what_is_deleted_while_its_watch_is_away_comes_back_though_the_watch_begins_anew_without_it(
    cluster: Cluster, way: FaultyWay
) -> None:
    cluster.apply(batcher(), batcher("other"))
    cluster.until_ready()
    cluster.until_ready("other")
    _held(way, "services")
    cluster.kubectl("delete", "service/demo")
    forget(cluster.plane)
    way.release()
    until(lambda: "services" in way.expired, 60, what="410 Gone")
    until(lambda: cluster.exists("service/demo"), 60, what="the service")


@pytest.mark.usefixtures("operator")
def test_a_watch_whose_version_was_compacted_away_begins_anew(cluster: Cluster, way: FaultyWay) -> None:
    cluster.apply(batcher(), batcher("other"))
    cluster.until_ready()
    cluster.until_ready("other")
    _held(way, "dtesnbatchers")
    cluster.kubectl("delete", "dtesnbatcher/other")
    cluster.apply(batcher("third"), batcher(replicas=3))
    forget(cluster.plane)
    way.release()
    until(lambda: "dtesnbatchers" in way.expired, 60, what="410 Gone")
    cluster.until_ready("third", 120)
    until(lambda: cluster.get("deployment/demo")["spec"]["replicas"] == 3, what="the replicas")
    until(lambda: not cluster.exists("deployment/other"), 60, what="the end of the other")


@pytest.mark.usefixtures("operator")
def test_answers_of_5xx_and_429_delay_the_work_and_do_not_end_it(cluster: Cluster, way: FaultyWay) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    dice = random.Random(20261125)

    def often(call: Call) -> Fault:
        spared = "leases" in call.path or dice.random() > 0.4
        return None if spared else dice.choice((500, 503, 504, 429, "cut"))

    way.fault = often
    names_of = [f"shop-{number}" for number in range(6)]
    cluster.apply(*(batcher(name) for name in names_of))
    for name in names_of:
        cluster.until_ready(name, 120)
    cluster.kubectl("delete", "service/shop-1", "configmap/shop-2")
    cluster.apply(batcher("shop-3", replicas=1), batcher("shop-4", networkPolicy={"enabled": True}))
    until(lambda: cluster.exists("service/shop-1") and cluster.exists("configmap/shop-2"), 120, what="what was deleted")
    until(lambda: cluster.get("deployment/shop-3")["spec"]["replicas"] == 1, 120, what="one replica")
    until(lambda: cluster.exists("networkpolicy/shop-4"), 120, what="the policy")
    for name in names_of:
        cluster.until_ready(name, 120)


@pytest.mark.usefixtures("operator")
def test_what_happens_while_watches_are_cut_again_and_again_is_not_missed(cluster: Cluster, way: FaultyWay) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    for number in range(8):
        until(way.cut_watches, what="a watch to cut")  # none is open while they are being made anew
        cluster.apply(batcher(batching={"maxBatchSize": 40 + number}), batcher(f"shop-{number}"))
        cluster.kubectl("delete", "service/demo", "--ignore-not-found")
        way.cut_watches()
        if number:
            cluster.kubectl("delete", f"dtesnbatcher/shop-{number - 1}")
        cluster.until_ready(f"shop-{number}", 60)
    until(lambda: '"maxBatchSize": 47' in cluster.get("configmap/demo")["data"]["batcher.yaml"], what="the last settings")
    until(lambda: cluster.exists("service/demo"), what="the service")
    wanted = {"demo", "shop-7"}
    until(lambda: {one["metadata"]["name"] for one in cluster.get("deployments")["items"]} == wanted, 60, what="no others")


@pytest.mark.usefixtures("operator")
def test_a_resource_that_went_unseen_is_not_acted_on(cluster: Cluster, way: FaultyWay) -> None:
    """The watch of resources is away while one is deleted; the others then tell of the end of all that it owned."""
    cluster.apply(batcher(), batcher("other"))
    cluster.until_ready()
    cluster.until_ready("other")
    way.fault = lambda call: "cut" if call.path.endswith("/dtesnbatchers") else None
    way.cut_watches()
    cluster.kubectl("delete", "dtesnbatcher/demo")
    since = mark(cluster.plane)
    gone = ("serviceaccount/demo", "configmap/demo", "deployment/demo", "service/demo")
    until(lambda: not any(cluster.exists(one) for one in gone), 60, what="the end of what it owned")
    cluster.kubectl("delete", "service/other")  # a later event, of a resource that is still there
    until(lambda: cluster.exists("service/other"), what="a repair")
    way.fault = lambda _call: None
    cluster.apply(batcher("third"))
    cluster.until_ready("third", 60)
    ours = [write for write in writes(cluster.plane, cluster.namespace, since) if write.agent == OURS]
    assert [write for write in ours if write.name == "demo" and write.resource != "events"] == []
    assert not any(cluster.exists(one) for one in gone)


@pytest.mark.usefixtures("operator")
def test_a_resource_that_is_made_anew_in_the_gap_gets_objects_of_its_own(cluster: Cluster, way: FaultyWay) -> None:
    cluster.apply(batcher())
    cluster.until_ready()
    before = cluster.get("deployment/demo")["metadata"]["uid"]
    way.fault = lambda call: "cut" if call.path.endswith("/dtesnbatchers") else None
    way.cut_watches()
    cluster.kubectl("delete", "dtesnbatcher/demo", "--cascade=foreground")
    cluster.apply(batcher(replicas=1))
    way.fault = lambda _call: None
    cluster.until_ready("demo", 90)
    resource = cluster.get("dtesnbatcher/demo")
    for one in ("serviceaccount/demo", "configmap/demo", "deployment/demo", "service/demo"):
        (owner,) = cluster.get(one)["metadata"]["ownerReferences"]
        assert owner["uid"] == resource["metadata"]["uid"]
    deployment = cluster.get("deployment/demo")
    assert deployment["metadata"]["uid"] != before
    assert deployment["spec"]["replicas"] == 1
