"""`dtesn-operator render`: what is printed, and what is said where a manifest is not valid."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dtesn_operator.__main__ import main

ONE = """\
apiVersion: dtesn.dev/v1alpha1
kind: DTESNBatcher
metadata: {name: one, namespace: shop}
spec: {batching: {targetBatchSize: 12, adaptationRate: 2e-1}}
"""
TWO = ONE.replace("one, namespace: shop", "two")


@pytest.fixture
def render(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on a text; status, objects on standard output, lines on standard error."""

    def run(text: str, *arguments: str) -> tuple[int, list[Any], list[str]]:
        file = tmp_path / "batchers.yaml"
        file.write_text(text, encoding="utf-8")
        status = main(["render", str(file), *arguments])
        captured = capsys.readouterr()
        return status, list(yaml.safe_load_all(captured.out)), captured.err.splitlines()

    return run


def test_the_objects_of_every_document_are_printed_in_the_order_of_applying(render: Any) -> None:
    status, objects, errors = render(f"---\n{ONE}---\n{TWO}---\n", "--namespace", "other")
    assert (status, errors) == (0, [])
    assert [(one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) for one in objects] == [
        (kind, namespace, name)
        for namespace, name in (("shop", "one"), ("other", "two"))
        for kind in ("ServiceAccount", "ConfigMap", "Deployment", "Service")
    ]


def test_without_any_namespace_it_is_default(render: Any) -> None:
    _, objects, _ = render(TWO)
    assert {one["metadata"]["namespace"] for one in objects} == {"default"}


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        (["--image", "mirror.example/a:1"], "b:2", "mirror.example/a:1"),
        ([], "b:2", "b:2"),
        ([], "", "dtesn-batcher:"),
    ],
)
def test_the_image_is_the_flags_else_the_environments_else_of_this_version(
    render: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: str, wanted: str
) -> None:
    monkeypatch.setenv("DTESN_SIDECAR_IMAGE", environment)
    _, objects, _ = render(ONE, *arguments)
    assert objects[2]["spec"]["template"]["spec"]["containers"][0]["image"].startswith(wanted)


def test_namespaces_of_the_operator_and_of_prometheus_reach_the_network_policy(render: Any) -> None:
    text = TWO.replace("batching:", "networkPolicy: {enabled: true}, batching:")
    _, objects, _ = render(text, "--operator-namespace", "ops", "--prometheus-namespace", "a", "--prometheus-namespace", "b")
    (policy,) = [one for one in objects if one["kind"] == "NetworkPolicy"]
    peers = policy["spec"]["ingress"][0]["from"]
    assert [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers] == ["ops", "a", "b"]


def test_the_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ONE.encode())))
    assert main(["render", "-"]) == 0
    assert "name: one" in capsys.readouterr().out


def test_what_kubectl_prints_of_a_stored_resource_has_its_owner(render: Any) -> None:
    text = ONE.replace("{name: one, namespace: shop}", "{name: one, uid: 6f1c, creationTimestamp: 2026-01-01T00:00:00Z}")
    status, objects, _ = render(text + "status: {image: 'kept:1'}\n")
    assert status == 0
    assert [one["metadata"]["ownerReferences"][0]["uid"] for one in objects] == ["6f1c"] * 4
    assert objects[2]["spec"]["template"]["spec"]["containers"][0]["image"] == "kept:1"


def test_a_name_that_looks_like_a_date_is_a_name(render: Any) -> None:
    _, objects, _ = render(ONE.replace("shop", "2026-01-01"))
    assert objects[0]["metadata"]["namespace"] == "2026-01-01"


def test_json_is_read_too(render: Any) -> None:
    status, objects, _ = render('{"apiVersion": "dtesn.dev/v1alpha1", "kind": "DTESNBatcher", "metadata": {"name": "one"}}')
    assert (status, len(objects)) == (0, 4)


def test_everything_that_is_wrong_is_listed_and_nothing_printed(render: Any) -> None:
    status, objects, errors = render(
        f"{ONE.replace('12', '0')}---\n{TWO.replace('batching', 'replicas: -1, batching')}---\n{ONE.replace('DTESNBatcher', 'Pod')}"
    )
    assert (status, objects) == (2, [])
    assert errors[0] == "dtesn-operator: the manifests are not valid (3):"
    assert errors[1].startswith("  one: spec.batching.targetBatchSize is 0, but must be ")
    assert errors[2].startswith("  two: spec.replicas is ")
    assert errors[3].startswith("  one: kind is 'Pod', but must be DTESNBatcher")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("replicas: 2", "metadata.name is missing"),
        ("spec: {replicas: 2}", "kind is missing"),
        ("- 1", "the document is a list of 1, but must be an object"),
        ("a: 1\na: 2", "the key 'a' is given more than once"),
        ("a: [", "not YAML"),
        ("a: !!python/object:os.system x", "not YAML"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("a: \x07", "not YAML"),
        (ONE.replace("shop", "Shop"), "metadata.namespace is 'Shop', but must be"),
        (ONE.replace("name: one", "name: One"), "metadata.name is 'One', but must be"),
        (ONE.replace("batching:", "template: {spec: {volumes: [{name: dtesn-tmp}]}}, batching:"), "spec.template.spec.volumes[0].name"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(render: Any, text: str, words: str) -> None:
    status, objects, errors = render(text)
    assert (status, objects) == (2, [])
    assert words in "\n".join(errors)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(tmp_path / "absent.yaml")]) == 2
    assert f"{tmp_path / 'absent.yaml'} is not readable (No such file or directory)" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert main(["render", str(tmp_path / "binary")]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_the_help_shows_how_to_try_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["render", "--help"])
    assert ended.value.code == 0
    assert "dtesn-operator render batcher.yaml" in capsys.readouterr().out
