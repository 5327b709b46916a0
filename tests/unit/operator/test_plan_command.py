"""`dtesn-operator plan` without a cluster: how a preview reads, what a re-apply leaves out, and what is said where nobody answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.status import Reason
from dtesn_operator import kinds
from dtesn_operator.__main__ import main
from dtesn_operator.cli.preview_text import print_json, print_text
from dtesn_operator.differences import Difference
from dtesn_operator.kinds import ObjectKey
from dtesn_operator.preview import Change, Preview, since
from dtesn_operator.status import Trouble

ONE = "{apiVersion: dtesn.dev/v1alpha1, kind: DTESNBatcher, metadata: {name: one}, spec: {}}"
PLAIN = st.integers(0, 2) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2)
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), PLAIN, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def key(kind: kinds.Kind) -> ObjectKey:
    return ObjectKey(kind, "shop", "one")


PREVIEW = Preview(
    resource=Change(key(kinds.DTESN_BATCHER), "change", (Difference(("spec", "replicas"), 2, 3),)),
    owned=(
        Change(key(kinds.SERVICE_ACCOUNT), "keep"),
        Change(key(kinds.CONFIG_MAP), "change", (Difference(("data", "batcher.yaml"), "a\nb\nc\n", "a\nB\nc\n"),)),
        Change(key(kinds.SERVICE), "conflict"),
        Change(key(kinds.DEPLOYMENT), "change", (Difference(("spec", "template", "spec", "containers", "[web]", "image"), "a:1", "a:2"),)),
        Change(key(kinds.POD_DISRUPTION_BUDGET), "create", manifest={"spec": {}}),
        Change(key(kinds.NETWORK_POLICY), "change"),
        Change(key(kinds.SCALED_OBJECT), "wait"),
        Change(key(kinds.HORIZONTAL_POD_AUTOSCALER), "delete"),
    ),
    troubles=(Trouble(Reason.NAME_CONFLICT, "the Service one exists"),),
)
TEXT = """\
~ DTESNBatcher shop/one
    spec.replicas: 2 -> 3
  = ServiceAccount one
  ~ ConfigMap one (running pods take it up without a restart)
      data['batcher.yaml']:
         a
        -b
        +B
         c
  ! Service one
  ~ Deployment one (its pods are replaced)
      spec.template.spec.containers[web].image: "a:1" -> "a:2"
  + PodDisruptionBudget one
  ~ NetworkPolicy one
      no field, but the record of what was applied
  . ScaledObject one
  - HorizontalPodAutoscaler one
  Degraded, NameConflict: the Service one exists

1 to create, 4 to change, 1 to delete, 1 as wanted, 1 in conflict, 1 to come later.
"""


def test_a_preview_reads_line_by_line_without_colours_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_text([PREVIEW])
    printed = [line for line in capsys.readouterr().out.splitlines() if "@@" not in line]
    assert "\n".join(printed) + "\n" == TEXT


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    print_text([Preview(Change(key(kinds.DTESN_BATCHER), "change", (Difference(("spec", "image"), "a" * 300, "b"),)))])
    assert f'    spec.image: "{"a" * 300}" -> "b"' in capsys.readouterr().out.splitlines()


def test_what_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_text([Preview(Change(key(kinds.DTESN_BATCHER), "change", (Difference(("spec", "args"), None, ["[bold]", ":smile:"]),)))])
    assert '["[bold]", ":smile:"]' in capsys.readouterr().out


def test_a_paused_resource_is_said_to_be_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_text([Preview(Change(key(kinds.DTESN_BATCHER), "keep"), paused=True)])
    assert "it would be paused: nothing that it owns is touched" in capsys.readouterr().out


def test_json_has_every_object_with_its_action_and_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([PREVIEW])
    found = json.loads(capsys.readouterr().out)
    (one,) = found["resources"]
    assert found["summary"] == {"create": 1, "change": 4, "delete": 1, "keep": 1, "conflict": 1, "wait": 1}
    assert one["troubles"] == [{"reason": "NameConflict", "message": "the Service one exists"}]
    workload = next(item for item in one["objects"] if item["kind"] == "Deployment")
    path = ["spec", "template", "spec", "containers", "[web]", "image"]
    assert workload["fields"] == [{"path": path, "text": "spec.template.spec.containers[web].image", "before": "a:1", "after": "a:2"}]
    assert (workload["apiVersion"], workload["action"], workload["effect"]) == ("apps/v1", "change", "its pods are replaced")
    assert next(item for item in one["objects"] if item["action"] == "create")["manifest"] == {"spec": {}}


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge(target.get(name), value)
    return target


@given(OBJECTS, OBJECTS)
def test_a_manifest_applied_over_its_former_self_leaves_what_it_says(before: dict[str, Any], now: dict[str, Any]) -> None:
    assert merge(before, since(before, now)) == now


@given(OBJECTS, OBJECTS)
def test_what_others_have_set_stays(before: dict[str, Any], now: dict[str, Any]) -> None:
    assert merge({**before, "others": 1}, since(before, now))["others"] == 1


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on a text with a kubeconfig of an API server that is not there; status and standard error."""
    file, kubeconfig = tmp_path / "batchers.yaml", tmp_path / "kubeconfig"
    cluster = {"name": "test", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "test", "context": {"cluster": "test", "user": "me", "namespace": "shop"}}
    users = [{"name": "me", "user": {}}]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": users,
        "contexts": [context],
        "current-context": "test",
    }
    kubeconfig.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(text: str, *arguments: str, config: Path = kubeconfig) -> tuple[int, str]:
        file.write_text(text, encoding="utf-8")
        status = main(["plan", str(file), "--kubeconfig", str(config), *arguments])
        captured = capsys.readouterr()
        assert captured.out == ""
        return status, captured.err

    return run


def test_a_manifest_that_is_not_valid_is_told_without_asking_a_cluster(run: Any) -> None:
    status, error = run(ONE.replace("spec: {}", "spec: {replicas: many}"))
    assert status == 1
    assert "spec.replicas" in error


def test_an_api_server_that_does_not_answer_is_named(run: Any) -> None:
    status, error = run(ONE)
    assert status == 1
    assert "the API server does not answer" in error
    assert "127.0.0.1" in error
    assert "kubectl config get-contexts" in error


def test_a_context_that_there_is_not_is_told_with_those_that_there_are(run: Any) -> None:
    status, error = run(ONE, "--context", "staging")
    assert status == 1
    assert "there is no context staging in the kubeconfig, only test" in error


@pytest.mark.parametrize("content", [None, "a: [", "[]", "{}"])
def test_a_kubeconfig_that_cannot_be_used_is_told(run: Any, tmp_path: Path, content: str | None) -> None:
    other = tmp_path / "other"
    if content is not None:
        other.write_text(content)
    status, error = run(ONE, config=other)
    assert status == 1
    assert "no way to the API server" in error
    assert "--kubeconfig FILE" in error
