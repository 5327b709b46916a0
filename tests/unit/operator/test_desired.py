"""What a resource asks for: which objects, with which image, and which changes touch which object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from msgspec import structs
from tests.unit.operator.specs import CLUSTER, EVERYTHING, batcher, batchers, kind_of, template_of

from dtesn_api import names
from dtesn_api.problems import SpecInvalid
from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import Cluster, Desired, desired
from dtesn_operator.kinds import key_of

NEWER = replace(CLUSTER, operator_image="registry.example/dtesn-batcher:2")


def test_a_resource_with_all_defaults_asks_for_four_objects() -> None:
    result = desired(batcher(), CLUSTER)
    assert [one["kind"] for one in result.objects] == ["ServiceAccount", "ConfigMap", "Deployment", "Service"]
    assert {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in result.objects} == {("shop", "demo")}


def test_the_hash_is_that_of_the_bytes_in_the_config_map() -> None:
    result = desired(batcher({"batching": {"targetBatchSize": 12}}), CLUSTER)
    text = kind_of(result, kinds.CONFIG_MAP)["data"][names.CONFIG_FILE]
    assert result.config_hash == sha256(text.encode()).hexdigest()


def test_a_live_setting_reaches_the_config_map_alone() -> None:
    before, after = desired(batcher(), CLUSTER), desired(batcher({"batching": {"targetBatchSize": 12}}), CLUSTER)
    changed = [old["kind"] for old, new in zip(before.objects, after.objects, strict=True) if old != new]
    assert changed == ["ConfigMap"]


def test_the_longest_timeout_moves_the_grace_that_pods_end_in_and_nothing_else_of_them() -> None:
    before, after = (
        template_of(desired(batcher(), CLUSTER)),
        template_of(desired(batcher({"batching": {"maxTimeoutSeconds": 100}}), CLUSTER)),
    )
    assert after.pop("spec") == before.pop("spec") | {"terminationGracePeriodSeconds": 115}
    assert after == before


# -- the image -----------------------------------------------------------------------------------------------------------------


def image_of(result: Desired) -> str:
    (one,) = template_of(result)["spec"]["containers"]
    assert one["image"] == result.image
    return str(one["image"])


def test_without_an_image_the_operators_is_taken() -> None:
    assert image_of(desired(batcher(), CLUSTER)) == CLUSTER.operator_image


def test_a_newer_operator_changes_nothing_of_what_runs() -> None:
    before = desired(batcher(), CLUSTER)
    resource = batcher(status={"image": before.image})
    assert desired(resource, NEWER, kind_of(before, kinds.DEPLOYMENT)) == before
    assert desired(resource, NEWER) == before


def test_pods_that_are_replaced_anyway_take_the_newer_image_with_them() -> None:
    running = kind_of(desired(batcher(), CLUSTER), kinds.DEPLOYMENT)
    resource = batcher({"model": {"seed": 7}}, status={"image": CLUSTER.operator_image}, generation=2)
    assert image_of(desired(resource, NEWER, running)) == NEWER.operator_image


@pytest.mark.parametrize("change", [{"replicas": 5}, {"batching": {"targetBatchSize": 12}}, {"service": {"port": 8000}}])
def test_a_change_that_replaces_no_pods_does_not_bring_the_newer_image(change: dict[str, Any]) -> None:
    running = kind_of(desired(batcher(), CLUSTER), kinds.DEPLOYMENT)
    resource = batcher(change, status={"image": CLUSTER.operator_image}, generation=2)
    assert image_of(desired(resource, NEWER, running)) == CLUSTER.operator_image


def test_the_resources_own_image_counts_before_any_other() -> None:
    resource = batcher({"image": {"repository": "mirror.example/dtesn", "tag": "3"}}, status={"image": CLUSTER.operator_image})
    assert image_of(desired(resource, NEWER, kind_of(desired(batcher(), CLUSTER), kinds.DEPLOYMENT))) == "mirror.example/dtesn:3"


def test_an_image_without_repository_sets_only_the_policy_and_the_secrets() -> None:
    result = desired(batcher({"image": {"pullPolicy": "Always", "pullSecrets": [{"name": "registry"}]}}), CLUSTER)
    pod = template_of(result)["spec"]
    assert image_of(result) == CLUSTER.operator_image
    assert pod["containers"][0]["imagePullPolicy"] == "Always"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_a_changed_image_changes_the_pod_template() -> None:
    before = desired(batcher(), CLUSTER)
    after = desired(batcher({"image": {"repository": "a", "tag": "1"}}), CLUSTER)
    assert template_of(before) != template_of(after)


# -- what is not installed -----------------------------------------------------------------------------------------------------


def test_an_optional_kind_that_is_not_installed_is_named_and_left_out() -> None:
    result = desired(batcher({"gpu": {"count": 1, "deviceClassName": "gpu.example"}}), Cluster(operator_image="a:1"))
    assert result.missing == (kinds.RESOURCE_CLAIM_TEMPLATE,)
    assert "ResourceClaimTemplate" not in [one["kind"] for one in result.objects]


def test_a_template_that_does_not_go_with_the_sidecar_is_refused() -> None:
    with pytest.raises(SpecInvalid):
        desired(batcher({"template": {"spec": {"containers": "none"}}}), CLUSTER)


# -- what holds for every resource ---------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(batchers())
def test_everything_belongs_to_the_resource_and_is_well_formed(resource: Batcher) -> None:
    result = desired(resource, CLUSTER)
    order = [kinds.OWNED.index(key_of(one).kind) for one in result.objects]
    assert order == sorted(set(order))
    for one in result.objects:
        metadata = one["metadata"]
        assert metadata["namespace"] == resource.namespace
        assert metadata["name"].startswith(resource.name)
        assert len(metadata["name"]) <= 63
        assert metadata["labels"][names.LABEL_INSTANCE] == resource.name
        assert metadata["labels"][names.LABEL_MANAGED_BY] == names.FIELD_MANAGER
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("DTESNBatcher", resource.name, "6f1c", True)
        assert list(_junk(one)) == []


@settings(max_examples=50)
@given(batchers())
def test_pods_bear_the_labels_that_they_are_selected_by(resource: Batcher) -> None:
    result = desired(resource, CLUSTER)
    worn = template_of(result)["metadata"]["labels"]
    by_kind = {one["kind"]: one["spec"] for one in result.objects if "spec" in one}
    wanted = [by_kind["Deployment"]["selector"]["matchLabels"], by_kind["Service"]["selector"]]
    wanted += [by_kind[kind]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget", "PodMonitor") if kind in by_kind]
    wanted += [by_kind["NetworkPolicy"]["podSelector"]["matchLabels"]] if "NetworkPolicy" in by_kind else []
    assert all(selector.items() <= worn.items() for selector in wanted)


@settings(max_examples=50)
@given(batchers())
def test_the_same_resource_gives_the_same_bytes_and_is_left_as_it_was(resource: Batcher) -> None:
    before = repr(resource)
    assert repr(desired(resource, CLUSTER)) == repr(desired(resource, CLUSTER))
    assert repr(resource) == before


@settings(max_examples=50)
@given(batchers(), batchers())
def test_whatever_changes_in_batching_but_the_longest_timeout_no_pod_is_replaced(resource: Batcher, other: Batcher) -> None:
    bounded = {"max_timeout": 300.0, "min_timeout": 1.0, "default_timeout": None}
    base = structs.replace(resource.spec, batching=structs.replace(resource.spec.batching, **bounded))
    nodes = {"max_queue_nodes": base.batching.max_queue_nodes, "max_batch_nodes": base.batching.max_batch_nodes}
    changed = structs.replace(base, batching=structs.replace(other.spec.batching, **bounded, **nodes))
    before, after = (desired(replace(resource, spec=spec), CLUSTER) for spec in (base, changed))
    differing = [old["kind"] for old, new in zip(before.objects, after.objects, strict=True) if old != new]
    assert differing == (["ConfigMap"] if before.config_hash != after.config_hash else [])


def test_a_resource_that_uses_everything_asks_for_every_kind_but_the_other_autoscaler() -> None:
    asked = [one["kind"] for one in desired(batcher(EVERYTHING), CLUSTER).objects]
    assert asked == [kind.kind for kind in kinds.OWNED if kind != kinds.SCALED_OBJECT]


def test_without_a_cluster_there_is_no_owner_to_refer_to() -> None:
    result = desired(Batcher("shop", "demo"), CLUSTER)
    assert not any("ownerReferences" in one["metadata"] for one in result.objects)


def _junk(value: object, path: str = "") -> Iterator[str]:
    """Nulls, and empty objects and lists where nothing is said by them and the user did not write them."""
    said = any(name in path for name in (".emptyDir", ".from", ".egress", ".valueFrom", ".nodeSelector", ".securityContext"))
    if value is None or (value in ({}, []) and not said):
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _junk(item, f"{path}.{key}")
    if isinstance(value, list):
        for item in value:
            yield from _junk(item, path)
