"""What a resource asks for: which objects, with which image, and which changes touch which object."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from dtesn_api import names
from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import decode_spec
from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import Cluster, Desired, desired
from dtesn_operator.kinds import Manifest, key_of

CLUSTER = Cluster(operator_image="registry.example/dtesn-batcher:1", available=frozenset(kind for kind in kinds.OWNED if kind.optional))
NEWER = Cluster(operator_image="registry.example/dtesn-batcher:2", available=CLUSTER.available)


def batcher(spec: dict[str, Any] | None = None, **others: Any) -> Batcher:
    return Batcher("shop", "demo", uid="6f1c", spec=decode_spec(spec or {}), **others)


def kind_of(result: Desired, kind: kinds.Kind) -> Manifest:
    (found,) = [one for one in result.objects if key_of(one).kind == kind]
    return found


def template_of(result: Desired) -> Manifest:
    return kind_of(result, kinds.DEPLOYMENT)["spec"]["template"]  # type: ignore[no-any-return]


def test_a_resource_with_all_defaults_asks_for_four_objects() -> None:
    result = desired(batcher(), CLUSTER)
    assert [one["kind"] for one in result.objects] == ["ServiceAccount", "ConfigMap", "Service", "Deployment"]
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
