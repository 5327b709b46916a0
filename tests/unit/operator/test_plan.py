"""What is done so that the cluster has what a resource asks for."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.operator.specs import batchers

from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import Cluster, desired
from dtesn_operator.kinds import Manifest, ObjectKey, key_of
from dtesn_operator.plan import ANNOTATION_APPLIED, Apply, Create, Delete, Plan, allowed, differs, opening, plan, stamped

EVERYTHING = Cluster(operator_image="a:1", available=frozenset(kind for kind in kinds.OWNED if kind.optional))


def objects(batcher: Batcher) -> tuple[Manifest, ...]:
    return desired(batcher, EVERYTHING).objects


def stored(manifest: Manifest, uid: str = "") -> Manifest:
    """As an API server might keep it: with an identity, and with defaults filled in."""
    found = copy.deepcopy(stamped(manifest))
    found["metadata"] |= {"uid": uid or f"uid-{found['metadata']['name']}-{found['kind']}", "resourceVersion": "7", "generation": 1}
    found.setdefault("spec", {}).setdefault("somebodyElses", {"a": 1})
    found["status"] = {"phase": "fine"}
    return found


def cluster_of(manifests: tuple[Manifest, ...]) -> dict[ObjectKey, Manifest]:
    return {key_of(one): stored(one) for one in manifests}


@given(batchers())
def test_what_does_not_exist_is_made_and_what_is_as_wanted_is_left(batcher: Batcher) -> None:
    wanted = objects(batcher)
    ahead = plan(batcher.uid, wanted, {})
    assert [action.key for action in ahead.actions if isinstance(action, Create)] == [key_of(one) for one in wanted]
    assert plan(batcher.uid, wanted, cluster_of(wanted)) == Plan(())


@given(batchers())
def test_a_new_resource_begins_with_what_its_pods_need_and_the_deployment_and_the_rest_follows(batcher: Batcher) -> None:
    actions = plan(batcher.uid, objects(batcher), {}).actions
    first = opening(actions)
    assert (*first, *actions[len(first) :]) == actions
    assert first[-1].key.kind == kinds.DEPLOYMENT
    begun = {action.key.kind for action in first}
    assert {kinds.SERVICE_ACCOUNT, kinds.CONFIG_MAP} < begun
    assert kinds.SERVICE not in begun
    later = {action.key.kind for action in actions} - begun
    assert not later & {kinds.RESOURCE_CLAIM_TEMPLATE, kinds.NETWORK_POLICY}  # which pods use, and which restricts their traffic


def test_without_a_deployment_to_make_nothing_waits() -> None:
    batcher = Batcher("shop", "demo", uid="u")
    wanted = objects(batcher)
    there = {key: one for key, one in cluster_of(wanted).items() if key.kind == kinds.DEPLOYMENT}
    actions = plan("u", wanted, there).actions
    assert actions
    assert opening(actions) == actions


@given(batchers(), batchers())
def test_what_is_no_longer_wanted_goes_and_each_action_names_a_uid(one: Batcher, other: Batcher) -> None:
    before, after = objects(one), objects(replace(other, namespace=one.namespace, name=one.name, uid=one.uid))
    observed = cluster_of(before)
    ahead = plan(one.uid, after, observed)
    gone = {key_of(manifest) for manifest in before} - {key_of(manifest) for manifest in after}
    assert {action.key for action in ahead.actions if isinstance(action, Delete)} == gone
    for action in ahead.actions:
        if isinstance(action, Delete):
            assert action.uid == observed[action.key]["metadata"]["uid"]
        elif isinstance(action, Apply):
            assert action.manifest["metadata"]["uid"] == observed[action.key]["metadata"]["uid"]


@given(batchers(), st.data())
def test_what_another_controls_is_a_conflict_and_never_touched(batcher: Batcher, data: st.DataObject) -> None:
    wanted = objects(batcher)
    observed = cluster_of(wanted)
    foreign = data.draw(st.sampled_from(sorted(observed)))
    theirs = {"kind": "Other", "name": "x", "uid": "somebody", "controller": True}
    observed[foreign]["metadata"]["ownerReferences"] = data.draw(st.sampled_from([[], [theirs], [{**theirs, "controller": False}]]))
    observed[foreign].get("spec", {}).clear()
    ahead = plan(batcher.uid, wanted, observed)
    assert ahead.conflicts == (foreign,)
    assert foreign not in {action.key for action in ahead.actions}


@given(batchers(), st.data())
def test_a_field_of_ours_that_somebody_changed_is_applied_again(batcher: Batcher, data: st.DataObject) -> None:
    wanted = objects(batcher)
    observed = cluster_of(wanted)
    key = data.draw(st.sampled_from(sorted(observed)))
    found = observed[key]
    where: Any = found["metadata"]["labels"]
    where[data.draw(st.sampled_from(sorted(where)))] = "changed by hand"
    (action,) = plan(batcher.uid, wanted, observed).actions
    assert isinstance(action, Apply)
    assert (action.key, action.drift) == (key, True)


def test_a_field_that_was_applied_and_is_no_longer_wanted_is_found_by_the_hash() -> None:
    batcher = Batcher("shop", "demo", uid="u")
    (service,) = [one for one in objects(batcher) if one["kind"] == "Service"]
    found = stored({**service, "spec": {**service["spec"], "sessionAffinity": "ClientIP"}})
    (action,) = plan("u", [service], {key_of(service): found}).actions
    assert isinstance(action, Apply)
    assert not action.drift


def test_an_autoscaler_goes_before_the_other_one_comes() -> None:
    on = {"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2"}
    owner = {"kind": "DTESNBatcher", "name": "demo", "uid": "u", "controller": True}
    metadata = {"name": "demo", "namespace": "shop", "ownerReferences": [owner]}
    old = {**on, "metadata": metadata, "spec": {}}
    new = {"kind": "ScaledObject", "apiVersion": "keda.sh/v1alpha1", "metadata": metadata, "spec": {}}
    ahead = plan("u", [new], {key_of(old): stored(old)})
    assert [type(action) for action in ahead.actions] == [Delete]
    assert ahead.waits
    assert [type(action) for action in plan("u", [new], {}).actions] == [Create]


def test_an_object_on_its_way_out_is_waited_for() -> None:
    (account, *_) = objects(Batcher("shop", "demo", uid="u"))
    found = stored(account)
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert plan("u", [account], {key_of(account): found}) == Plan((), waits=True)
    assert plan("u", [], {key_of(account): found}) == Plan(())


def test_with_a_name_taken_no_deployment_is_made_but_the_rest_is() -> None:
    wanted = objects(Batcher("shop", "demo", uid="u"))
    observed = {key: one for key, one in cluster_of(wanted).items() if key.kind == kinds.SERVICE}
    for one in observed.values():
        one["metadata"]["ownerReferences"] = []
    made = {action.key.kind.kind for action in allowed(plan("u", wanted, observed))}
    assert made == {"ServiceAccount", "ConfigMap"}


def test_what_the_api_server_keeps_otherwise_is_applied_once_and_again_when_it_changes() -> None:
    (account, *_) = objects(Batcher("shop", "demo", uid="u"))
    account["spec"] = {"wanted": "one"}
    found = stored(account)
    found["spec"]["wanted"] = "other"
    key = key_of(account)
    settled = {key: (found["metadata"]["annotations"][ANNOTATION_APPLIED], f"{found['metadata']['uid']}/1")}
    assert plan("u", [account], {key: found}).actions
    assert plan("u", [account], {key: found}, settled).actions == ()
    found["metadata"]["generation"] = 2
    assert plan("u", [account], {key: found}, settled).actions


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"requests": {"cpu": "0.5"}}, {"requests": {"cpu": "500m"}}),
        ({"limits": {"memory": "1024Mi"}}, {"limits": {"memory": "1Gi"}}),
        ({"limits": {"cpu": 1}}, {"limits": {"cpu": "1"}}),
        ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}),
        ({"hostNetwork": False}, {}),
        ({"ports": [{"port": 80}]}, {"ports": [{"port": 81, "name": "theirs"}, {"port": 80, "protocol": "TCP"}]}),
        ({"a": None}, {}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_says_the_same_does_not_differ(wanted: Any, kept: Any) -> None:
    assert not differs(wanted, kept)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"requests": {"cpu": "0.5"}}, {"requests": {"cpu": "501m"}}),
        ({"value": "0.5"}, {"value": "500m"}),
        ({"args": ["a", "b"]}, {"args": ["a", "b", "c"]}),
        ({"ingress": [{"from": [{"a": 1}]}]}, {"ingress": [{"from": [{"a": 1}, {"a": 2}]}]}),
        ({"replicas": 1}, {"replicas": True}),
        ({"a": {"b": 1}}, {"a": 1}),
        ({"a": "x"}, {}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_says_something_else_differs(wanted: Any, kept: Any) -> None:
    assert differs(wanted, kept)
