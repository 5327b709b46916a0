"""Injection into pods of other workloads: what the patch makes of a pod, and when there is none."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from tests.unit.operator.specs import APPLICATION, CLUSTER, EVERYTHING, batchers, sidecar_of

from dtesn_api import names
from dtesn_api.schema import to_wire
from dtesn_operator.batcher import Batcher, batcher_of
from dtesn_operator.desired import desired, live_settings
from dtesn_operator.inject import Injection, asked, inject, missed
from dtesn_operator.kinds import Manifest
from dtesn_operator.resources.container import container


def resource(spec: dict[str, Any] | None = None, enabled: bool = True) -> Manifest:
    whole = {**(spec or {}), "injection": {"enabled": enabled}}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": "demo", "namespace": "shop"}, "spec": whole}


def pod(**spec: Any) -> Manifest:
    metadata = {"name": "web-0", "labels": {"app": "web", "dtesn.dev/inject": "demo"}}
    return {"metadata": metadata, "spec": {"containers": [deepcopy(APPLICATION)], **spec}}


def patched(before: Manifest, injection: Injection) -> Manifest:
    """The pod after the operations, as RFC 6902 has them (`add` is the only one in use)."""
    after = deepcopy(before)
    for operation in injection.patch:
        assert operation["op"] == "add"
        *above, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        inner: Any = after
        for part in above:
            inner = inner[part]
        if isinstance(inner, list):
            assert last == "-"
            inner.append(deepcopy(operation["value"]))
        else:
            inner[last] = deepcopy(operation["value"])
    return after


def injected(before: Manifest, spec: dict[str, Any] | None = None) -> Manifest:
    result = inject(before, resource(spec), CLUSTER)
    assert result.warnings == ()
    return patched(before, result)


def test_a_pod_gets_the_very_container_of_the_deployment_as_a_native_sidecar() -> None:
    after = injected(pod(automountServiceAccountToken=False), EVERYTHING | {"template": None})
    (sidecar,) = after["spec"]["initContainers"]
    spec = batcher_of(resource(EVERYTHING | {"template": None})).spec
    assert sidecar == container(spec, "registry.example/sidecar:2", native=True, hide_token=False)
    assert after["spec"]["containers"] == [APPLICATION]
    assert after["spec"]["resourceClaims"][0]["name"] == "dtesn-gpu"
    assert after["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert after["spec"]["runtimeClassName"] == "nvidia"


@settings(max_examples=50)
@given(batchers())
def test_whatever_the_resource_says_every_mount_has_its_volume_and_asking_again_changes_nothing(found: Batcher) -> None:
    whole = resource(to_wire(found.spec))
    result = inject(pod(), whole, CLUSTER)
    if result.patch:
        after = patched(pod(), result)
        volumes = [volume["name"] for volume in after["spec"]["volumes"]]
        assert len(set(volumes)) == len(volumes)
        assert {mount["name"] for mount in sidecar_of(after["spec"])["volumeMounts"]} <= set(volumes)
        assert inject(after, whole, CLUSTER) == Injection()
    else:
        assert "has port 80" in result.warnings[0]


def test_what_the_pod_has_stays_and_the_sidecar_comes_last() -> None:
    before = pod(
        initContainers=[{"name": "prepare"}],
        volumes=[{"name": "data", "emptyDir": {}}],
        imagePullSecrets=[{"name": "own"}],
        runtimeClassName="gvisor",
        terminationGracePeriodSeconds=30,
    )
    before["metadata"]["annotations"] = {"note/a~b": "1"}
    after = injected(before, {"image": {"pullSecrets": [{"name": "own"}, {"name": "registry"}]}, "gpu": {"runtimeClassName": "nvidia"}})
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["prepare", names.CONTAINER]
    assert after["spec"]["volumes"][0] == {"name": "data", "emptyDir": {}}
    assert after["spec"]["imagePullSecrets"] == [{"name": "own"}, {"name": "registry"}]
    assert after["spec"]["runtimeClassName"] == "gvisor"
    assert after["spec"]["terminationGracePeriodSeconds"] == 30
    assert after["metadata"]["annotations"]["note/a~b"] == "1"
    assert after["metadata"]["labels"] == before["metadata"]["labels"]


def test_the_settings_of_the_moment_stand_in_where_the_config_map_is_absent() -> None:
    after = injected(pod(), {"batching": {"targetBatchSize": 12}})
    (volume,) = [one for one in after["spec"]["volumes"] if one["name"] == "dtesn-config"]
    annotation, config_map = volume["projected"]["sources"]
    assert config_map == {"configMap": {"name": "demo", "optional": True}}
    assert annotation["downwardAPI"]["items"] == [
        {"path": names.CONFIG_FILE, "fieldRef": {"fieldPath": "metadata.annotations['dtesn.dev/settings']"}}
    ]
    found = batcher_of(resource({"batching": {"targetBatchSize": 12}}))
    assert after["metadata"]["annotations"]["dtesn.dev/settings"].encode() == live_settings(found.spec)
    (wanted,) = [one for one in desired(found, CLUSTER).objects if one["kind"] == "ConfigMap"]
    assert wanted["data"][names.CONFIG_FILE] == after["metadata"]["annotations"]["dtesn.dev/settings"]


@pytest.mark.parametrize(("automount", "hidden"), [(None, True), (True, True), (False, False)])
def test_the_workloads_token_is_hidden_from_the_sidecar(automount: bool | None, hidden: bool) -> None:
    sidecar = sidecar_of(injected(pod(automountServiceAccountToken=automount))["spec"])
    assert ("/var/run/secrets/kubernetes.io/serviceaccount" in [mount["mountPath"] for mount in sidecar["volumeMounts"]]) is hidden


def test_in_a_pod_of_root_the_sidecar_is_not_root() -> None:
    assert sidecar_of(injected(pod(securityContext={"runAsUser": 0}))["spec"])["securityContext"]["runAsUser"] == 65_532


def test_the_image_is_the_one_that_the_resource_runs_with() -> None:
    kept = resource() | {"status": {"image": "kept:1"}}
    assert sidecar_of(patched(pod(), inject(pod(), kept, CLUSTER))["spec"])["image"] == "kept:1"


@pytest.mark.parametrize(("annotations", "added"), [({}, True), ({"prometheus.io/scrape": "false"}, False)])
def test_scrape_annotations_leave_those_of_the_workload(annotations: dict[str, str], added: bool) -> None:
    before = pod()
    before["metadata"]["annotations"] = annotations
    after = injected(before, {"monitoring": {"scrapeAnnotations": True}})["metadata"]["annotations"]
    assert ("prometheus.io/port" in after) is added
    assert annotations.items() <= after.items()


def test_a_pod_that_does_not_ask_is_left_alone() -> None:
    before = pod()
    del before["metadata"]["labels"]["dtesn.dev/inject"]
    assert asked(before) is None
    assert inject(before, resource(), CLUSTER) == Injection()


def test_a_pod_that_has_the_sidecar_is_left_alone_whoever_put_it_there() -> None:
    assert inject(pod(initContainers=[{"name": names.CONTAINER}]), resource(), CLUSTER) == Injection()
    assert inject(pod(containers=[{"name": names.CONTAINER}]), None, CLUSTER) == Injection()


@pytest.mark.parametrize(
    ("before", "found", "words"),
    [
        (pod(), None, "there is no such DTESNBatcher in this namespace"),
        (pod(), resource(enabled=False), "its spec.injection.enabled is false"),
        (pod(), resource({"replicas": -1}), "spec.replicas is -1"),
        (
            pod(),
            resource({"template": {"spec": {"terminationGracePeriodSeconds": "a"}}}),
            "spec.template.spec.terminationGracePeriodSeconds",
        ),
        (pod(), resource({"sidecar": {"port": 80}}), "its container web has port 80, which is the sidecar's too"),
        (pod(volumes=[{"name": "dtesn-tmp"}]), resource(), "its volume dtesn-tmp has a name that is the sidecar's own"),
        (pod(), resource({"model": {"name": "?" * 300}}), "spec.model.name"),
    ],
)
def test_where_it_cannot_be_the_pod_starts_without_and_whoever_creates_it_is_told(
    before: Manifest, found: Manifest | None, words: str
) -> None:
    result = inject(before, found, CLUSTER)
    assert result.patch == ()
    (warning,) = result.warnings
    assert warning.startswith("dtesn.dev/inject=demo: the pod starts without the sidecar: ")
    assert words in warning
    assert len(warning) < 256


def test_a_pod_that_asked_and_is_without_is_known_as_missed() -> None:
    assert missed(pod())
    assert not missed(injected(pod()))
    assert not missed({"metadata": {}, "spec": {}})
