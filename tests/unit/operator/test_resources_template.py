"""The pod template: what the user says stands, the sidecar finds what it needs, and a clash is named."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from tests.unit.operator.specs import APPLICATION, CLUSTER, EVERYTHING, batcher, kind_of, sidecar_of, template_of

from dtesn_api import names
from dtesn_api.problems import SpecInvalid
from dtesn_operator import kinds
from dtesn_operator.desired import desired
from dtesn_operator.kinds import Manifest


def rendered(spec: dict[str, Any]) -> Manifest:
    return template_of(desired(batcher(spec), CLUSTER))


def pod_of(template: dict[str, Any] | None = None, **spec: Any) -> Manifest:
    return rendered({**spec, "template": template})["spec"]  # type: ignore[no-any-return]


def test_alone_the_sidecar_is_the_regular_container() -> None:
    pod = pod_of()
    assert [one["name"] for one in pod["containers"]] == [names.CONTAINER]
    assert "initContainers" not in pod
    assert {"restartPolicy", "lifecycle"}.isdisjoint(pod["containers"][0])
    assert pod["enableServiceLinks"] is False


def test_beside_an_application_it_is_a_native_sidecar_that_learns_of_the_end_before_it_ends() -> None:
    pod = pod_of({"spec": {"containers": [APPLICATION]}})
    assert pod["containers"] == [APPLICATION]
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["lifecycle"]["preStop"]["exec"]["command"] == ["dtesn-sidecar", "drain", "--port", "8080"]
    assert "enableServiceLinks" not in pod


def test_it_starts_after_the_users_init_containers_whose_files_it_may_read() -> None:
    pod = pod_of({"spec": {"containers": [APPLICATION], "initContainers": [{"name": "fetch", "image": "a"}]}})
    assert [one["name"] for one in pod["initContainers"]] == ["fetch", names.CONTAINER]


def test_init_containers_alone_make_no_application() -> None:
    pod = pod_of({"spec": {"initContainers": [{"name": "fetch", "image": "a"}]}})
    assert [one["name"] for one in pod["initContainers"]] == ["fetch"]
    assert [one["name"] for one in pod["containers"]] == [names.CONTAINER]


def test_labels_and_annotations_are_merged_and_ours_win() -> None:
    metadata = {
        "labels": {"team": "a", names.LABEL_INSTANCE: "other"},
        "annotations": {"note": "b", "prometheus.io/port": "1"},
    }
    found = rendered({"template": {"metadata": metadata}, "monitoring": {"scrapeAnnotations": True}})["metadata"]
    assert found["labels"]["team"] == "a"
    assert found["labels"][names.LABEL_INSTANCE] == "demo"
    assert found["annotations"] == {
        "note": "b",
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
    }


def test_what_the_sidecar_does_not_care_about_is_taken_over() -> None:
    wanted = {
        "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "high",
        "hostAliases": [{"ip": "::1"}],
    }
    pod = pod_of({"spec": {**wanted, "affinity": None}})
    assert {key: pod[key] for key in wanted} == wanted
    assert "affinity" not in pod


def test_the_users_template_is_not_changed_by_rendering() -> None:
    spec = deepcopy(EVERYTHING)
    resource = batcher(spec)
    desired(resource, CLUSTER)
    assert resource.spec.template == EVERYTHING["template"]


def test_the_container_keeps_to_the_restricted_standard_and_writes_to_volumes_only() -> None:
    pod = pod_of()
    security = pod["containers"][0]["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    writable = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/var/cache/cupy"}


def test_where_the_pod_runs_as_root_the_sidecar_does_not() -> None:
    pod = pod_of({"spec": {"containers": [APPLICATION], "securityContext": {"runAsUser": 0}}})
    assert sidecar_of(pod)["securityContext"]["runAsUser"] == 65_532


def test_no_token_is_mounted_and_where_the_application_has_one_it_is_hidden() -> None:
    own = pod_of()
    assert own["automountServiceAccountToken"] is False
    assert own["serviceAccountName"] == "demo"
    theirs = pod_of({"spec": {"containers": [APPLICATION], "serviceAccountName": "web"}})
    assert "automountServiceAccountToken" not in theirs
    mounts = {mount["mountPath"]: mount["name"] for mount in sidecar_of(theirs)["volumeMounts"]}
    hiding = mounts["/var/run/secrets/kubernetes.io/serviceaccount"]
    assert {"name": hiding, "emptyDir": {}} in theirs["volumes"]


@pytest.mark.parametrize("beside", [[], [APPLICATION]])
def test_probes_and_port_follow_the_spec(beside: list[Manifest]) -> None:
    sidecar = sidecar_of(pod_of({"spec": {"containers": beside}}, sidecar={"port": 9000}))
    assert sidecar["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 9000}
    assert sidecar["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 9000}
    assert sidecar["ports"] == [{"name": names.CONTAINER_PORT_NAME, "containerPort": 9000, "protocol": "TCP"}]
    assert sidecar["args"][-2:] == ["--port", "9000"]


def test_live_settings_are_mounted_as_a_folder() -> None:
    pod = pod_of()
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == names.CONFIG_FOLDER]
    assert "subPath" not in mount
    assert {"name": mount["name"], "configMap": {"name": "demo"}} in pod["volumes"]


# -- readouts ------------------------------------------------------------------------------------------------------------------


def readout_volume(readout: dict[str, Any]) -> Manifest:
    pod = pod_of(model={"readout": readout})
    mounted = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    (volume,) = [one for one in pod["volumes"] if mounted[one["name"]]["mountPath"] == names.READOUT_FOLDER]
    assert mounted[volume["name"]]["readOnly"] is True
    return volume


def test_a_readout_comes_from_one_key_of_a_config_map() -> None:
    volume = readout_volume({"configMap": {"name": "readouts", "key": "a.safetensors"}})
    assert volume["configMap"] == {"name": "readouts", "items": [{"key": "a.safetensors", "path": "a.safetensors"}]}


def test_a_readout_comes_from_a_claim() -> None:
    volume = readout_volume({"persistentVolumeClaim": {"claimName": "models", "path": "fits/a"}})
    assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}


def test_a_readout_of_the_image_or_the_template_needs_no_volume() -> None:
    pod = pod_of(model={"readout": {"path": "/models/a"}})
    assert names.READOUT_FOLDER not in [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]


# -- GPUs ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpu", "resource"), [({}, "nvidia.com/gpu"), ({"resourceName": "amd.com/gpu"}, "amd.com/gpu")])
def test_a_device_plugins_gpus_are_a_limit(gpu: dict[str, Any], resource: str) -> None:
    limits = {"memory": "1Gi", resource: 9}
    sidecar = {"resources": {"requests": {"cpu": 1, resource: 9}, "limits": limits}}
    found = sidecar_of(pod_of(gpu={"count": 2, **gpu}, sidecar=sidecar))["resources"]
    assert found == {"requests": {"cpu": 1}, "limits": {"memory": "1Gi", resource: 2}}


def test_a_claim_is_made_from_the_template_of_that_name() -> None:
    result = desired(batcher({"gpu": {"count": 1, "deviceClassName": "gpu.example"}}), CLUSTER)
    (template,) = [one for one in result.objects if one["kind"] == "ResourceClaimTemplate"]
    pod = template_of(result)["spec"]
    assert pod["resourceClaims"] == [{"name": "dtesn-gpu", "resourceClaimTemplateName": template["metadata"]["name"]}]
    assert pod["containers"][0]["resources"] == {"claims": [{"name": "dtesn-gpu"}]}


def test_another_claim_has_another_name_since_its_spec_is_immutable() -> None:
    results = [desired(batcher({"gpu": {"count": count, "deviceClassName": "a"}}), CLUSTER) for count in (1, 2)]
    one, two = (kind_of(result, kinds.RESOURCE_CLAIM_TEMPLATE)["metadata"]["name"] for result in results)
    assert one != two


def test_without_gpus_nothing_is_asked_for() -> None:
    assert "resources" not in sidecar_of(pod_of(gpu={"count": 0, "deviceClassName": "gpu.example"}))


@pytest.mark.parametrize(("given", "wanted"), [(None, "theirs"), ("nvidia", "nvidia")])
def test_the_runtime_class_of_the_gpus_counts_before_the_templates(given: str | None, wanted: str) -> None:
    assert pod_of({"spec": {"runtimeClassName": "theirs"}}, gpu={"runtimeClassName": given})["runtimeClassName"] == wanted


# -- what does not go together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"spec": ["a"]}, "spec.template.spec"),
        ({"metadata": "a"}, "spec.template.metadata"),
        ({"metadata": {"labels": ["a"]}}, "spec.template.metadata.labels"),
        ({"metadata": {"annotations": 1}}, "spec.template.metadata.annotations"),
        ({"spec": {"containers": {}}}, "spec.template.spec.containers"),
        ({"spec": {"initContainers": ["a"]}}, "spec.template.spec.initContainers"),
        ({"spec": {"volumes": "a"}}, "spec.template.spec.volumes"),
        ({"spec": {"imagePullSecrets": "a"}}, "spec.template.spec.imagePullSecrets"),
        ({"spec": {"securityContext": "a"}}, "spec.template.spec.securityContext"),
        ({"spec": {"containers": [{"name": "a", "ports": 80}]}}, "spec.template.spec.containers[0].ports"),
        (
            {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 8080}]}]}},
            "spec.template.spec.containers[0].ports[0].containerPort",
        ),
        ({"spec": {"volumes": [{"name": "a"}, {"name": "dtesn-config"}]}}, "spec.template.spec.volumes[1].name"),
        ({"spec": {"resourceClaims": [{"name": "dtesn-gpu"}]}}, "spec.template.spec.resourceClaims[0].name"),
        ({"spec": {"terminationGracePeriodSeconds": 15}}, "spec.template.spec.terminationGracePeriodSeconds"),
        ({"spec": {"terminationGracePeriodSeconds": "60"}}, "spec.template.spec.terminationGracePeriodSeconds"),
        ({"spec": {"terminationGracePeriodSeconds": 60.5}}, "spec.template.spec.terminationGracePeriodSeconds"),
        ({"metadata": {"labels": {"dtesn.dev/inject": "demo"}}}, "spec.template.metadata.labels[dtesn.dev/inject]"),
    ],
)
def test_what_does_not_go_with_the_sidecar_is_named(template: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        rendered({"template": template, "gpu": {"count": 1, "deviceClassName": "gpu.example"}})
    assert [problem.field for problem in caught.value.problems] == [field]


def test_the_same_port_of_another_protocol_is_no_clash() -> None:
    ports = [{"containerPort": 8080, "protocol": "UDP"}]
    assert pod_of({"spec": {"containers": [{**APPLICATION, "ports": ports}]}})["containers"][0]["ports"] == ports


def test_two_mistakes_are_both_named() -> None:
    template = {"spec": {"volumes": [{"name": "dtesn-tmp"}], "terminationGracePeriodSeconds": 1}}
    with pytest.raises(SpecInvalid) as caught:
        rendered({"template": template})
    assert len(caught.value.problems) == 2
