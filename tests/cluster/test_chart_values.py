"""The chart without a cluster: its values, their schema and README, and what comes out of them."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.chart import CHART, CI, NAMESPACE, RELEASE, Helm, HelmFailed
from tests.cluster.chart_readme import README, readme

from dtesn_operator.cli import check, run
from dtesn_operator.resources.metadata import selector

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


def values_of(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def sections(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the objects whose keys are known: those that the schema gives properties."""
    if properties(path):
        yield path
        for name, value in values.items():
            if isinstance(value, dict):
                yield from sections(value, (*path, name))


def properties(path: tuple[str, ...]) -> dict[str, Any]:
    """What the schema knows at a path; nothing where any key goes."""
    schema: dict[str, Any] = SCHEMA
    for name in ("", *path):
        if name:
            schema = schema["properties"][name]
        while "$ref" in schema or "allOf" in schema or "anyOf" in schema:
            schema = schema["allOf"][0] if "allOf" in schema else schema["anyOf"][0] if "anyOf" in schema else definition(schema["$ref"])
    return schema.get("properties", {})


def definition(reference: str) -> dict[str, Any]:
    return SCHEMA["$defs"][reference.rpartition("/")[2]]


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the values below the sections."""
    for name, value in values.items():
        if isinstance(value, dict) and properties((*path, name)):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def at(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def without(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    del at(changed, path[:-1])[path[-1]]
    return changed


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_helm_lint_finds_nothing(helm: Helm, file: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), f"--namespace={NAMESPACE}", f"--values={file}")


@pytest.mark.parametrize("path", list(sections(DEFAULTS)), ids=lambda path: ".".join(path) or "root")
def test_an_unknown_key_is_refused_and_named_at_every_level(helm: Helm, path: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"unheardOf": 1}
    for name in reversed(path):
        values = {name: values}
    with pytest.raises(HelmFailed, match="additional properties 'unheardOf' not allowed"):
        helm.template(values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": -1}, "/replicas"),
        ({"replicas": "2"}, "/replicas"),
        ({"webhook": {"failurePolicy": "ignore"}}, "/webhook/failurePolicy"),
        ({"webhook": {"port": 443}}, "/webhook/port"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"scope": {"namespaces": ["Team_A"]}}, "/scope/namespaces/0"),
        ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
        ({"monitoring": {"podMonitor": {"interval": "often"}}}, "/monitoring/podMonitor/interval"),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_named(helm: Helm, values: dict[str, Any], named: str) -> None:
    with pytest.raises(HelmFailed, match=f"at '{named}'"):
        helm.template(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"scope": {"namespaces": ["a"]}}, "set webhook.certificates=certManager, or webhook.enabled=false"),
        ({"scope": {"namespaces": [NAMESPACE]}, "webhook": {"enabled": False}}, "install the operator into a namespace of its own"),
        (
            {"scope": {"namespaces": ["a"]}, "webhook": {"enabled": False}, "tests": {"namespace": "b"}},
            "tests.namespace b is not among scope.namespaces",
        ),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is needed where serviceAccount.create is false"),
        ({"extraObjects": [{"apiVersion": "dtesn.dev/v1alpha1", "kind": "DTESNBatcher"}]}, "apply it after the release"),
        ({"extraObjects": ["kind: {{ print `DTESNBatcher` }}"]}, "apply it after the release"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_what_to_do(helm: Helm, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmFailed, match=sentence.replace(".", r"\.")):
        helm.template(values)


@pytest.mark.parametrize("path", list(leaves(DEFAULTS)), ids=".".join)
def test_every_value_is_set_in_ci_and_changes_what_is_rendered(helm: Helm, path: tuple[str, ...], rendered: dict[Path, str]) -> None:
    changing = []
    for file in CI:
        values = values_of(file)
        try:
            given = at(values, path)
        except KeyError:
            continue
        if given != at(DEFAULTS, path) and text(helm, without(values, path)) != rendered[file]:
            changing.append(file.name)
    assert changing, "no file of ci/ has it, or it has no effect there"


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> dict[Path, str]:
    return {file: text(helm, values_of(file)) for file in CI}


def text(helm: Helm, values: dict[str, Any]) -> str:
    try:
        return json.dumps(helm.template(values))
    except HelmFailed as error:
        return str(error)


def test_a_parent_chart_may_share_global_values(helm: Helm) -> None:
    assert helm.template({"global": {"anything": True}}) == helm.template()


def test_the_readme_is_as_helm_docs_writes_it() -> None:
    assert README.read_text(encoding="utf-8") == readme(), "out of date: run `make generate`"


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_the_programs_understand_the_arguments_that_the_pods_give_them(helm: Helm, file: Path) -> None:
    manifests = helm.template(values_of(file))
    for pod in (one["spec"]["template"]["spec"] if one["kind"] == "Deployment" else one["spec"] for one in manifests if runs(one)):
        (container,) = pod["containers"]
        program, command = container["command"]
        assert program == "dtesn-operator"
        parser = argparse.ArgumentParser(exit_on_error=False)
        {"run": run, "check": check}[command].add_parser(parser.add_subparsers())
        parsed = parser.parse_args([command, *container["args"]])
        assert command == "check" or run._webhook_trouble(parsed) == ""


def runs(manifest: dict[str, Any]) -> bool:
    return manifest["kind"] in ("Deployment", "Pod")


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_every_container_is_restricted_and_cannot_write_to_its_root(helm: Helm, file: Path) -> None:
    found = [one for one in helm.template(values_of(file)) if runs(one)]
    assert found
    for one in found:
        pod = one["spec"]["template"]["spec"] if one["kind"] == "Deployment" else one["spec"]
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }


def test_no_object_of_the_chart_is_selected_as_a_batchers_pod_nor_the_check_as_the_operators(helm: Helm) -> None:
    manifests = helm.template()
    batcher = selector(RELEASE)
    for one in manifests:
        labels = one["metadata"]["labels"]
        assert not batcher.items() <= labels.items()
    (deployment,) = (one for one in manifests if one["kind"] == "Deployment")
    (hook,) = (one for one in manifests if one["kind"] == "Pod")
    assert not deployment["spec"]["selector"]["matchLabels"].items() <= hook["metadata"]["labels"].items()


def test_with_namespaces_there_is_no_cluster_role_and_with_the_cluster_one(helm: Helm) -> None:
    kinds = [one["kind"] for one in helm.template({"scope": {"namespaces": ["a", "b"]}, "webhook": {"enabled": False}})]
    assert not [kind for kind in kinds if kind.startswith("ClusterRole")]
    assert kinds.count("Role") == 4  # a, b, the operator's own namespace, and the check's
    assert "ClusterRole" in [one["kind"] for one in helm.template()]


def test_two_releases_of_one_name_in_two_namespaces_share_no_name_in_the_cluster(helm: Helm) -> None:
    def of_the_cluster(namespace: str) -> set[tuple[str, str]]:
        found = helm.template({"crds": {"enabled": False}}, namespace=namespace)
        return {(one["kind"], one["metadata"]["name"]) for one in found if "namespace" not in one["metadata"]}

    one, other = of_the_cluster("a"), of_the_cluster("b")
    assert len(one) >= 5
    assert one & other == set()


def test_the_definition_is_the_one_of_the_repository_but_for_its_metadata(helm: Helm) -> None:
    (found,) = (one for one in helm.template() if one["kind"] == "CustomResourceDefinition")
    wanted = yaml.safe_load((CHART.parents[1] / "crds" / "dtesnbatchers.yaml").read_text())
    assert found["spec"] == wanted["spec"]
    assert found["metadata"]["name"] == wanted["metadata"]["name"]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
