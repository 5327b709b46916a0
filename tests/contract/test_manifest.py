"""Manifests around the specification, and values that must not travel further than they should."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dtesn_api.problems import Problem, SpecInvalid, shown
from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec, decode_spec, parse_manifest

MANIFEST = {"apiVersion": "dtesn.dev/v1alpha1", "kind": "DTESNBatcher", "metadata": {"name": "text"}, "spec": {"replicas": 3}}


def test_a_manifest_and_its_spec_alone_say_the_same() -> None:
    assert parse_manifest(MANIFEST) == parse_manifest(MANIFEST["spec"]) == DTESNBatcherSpec(replicas=3)


def test_the_status_that_kubectl_prints_is_left_aside() -> None:
    assert parse_manifest(MANIFEST | {"status": {"conditions": []}}) == DTESNBatcherSpec(replicas=3)


def test_a_manifest_without_spec_has_all_defaults() -> None:
    assert parse_manifest({key: value for key, value in MANIFEST.items() if key != "spec"}) == DTESNBatcherSpec()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"apiVersion": "dtesn.dev/v2"}, "apiVersion"),
        ({"kind": "Deployment"}, "kind"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": None}, "metadata.name"),
        ({"metadata": "text"}, "metadata"),
        ({"metadata": {"name": "Text"}}, "metadata.name"),
        ({"metadata": {"name": "1text"}}, "metadata.name"),
        ({"metadata": {"name": "text-"}}, "metadata.name"),
        ({"metadata": {"name": "text\n"}}, "metadata.name"),
        ({"metadata": {"name": "a" * 53}}, "metadata.name"),
        ({"metadata": {"name": 7}}, "metadata.name"),
        ({"replicas": 2}, "replicas"),
        ({"spec": []}, "spec"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse_manifest(MANIFEST | change)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_the_longest_name_is_taken() -> None:
    assert parse_manifest(MANIFEST | {"metadata": {"name": "a" * 52}}) == DTESNBatcherSpec(replicas=3)


def test_problems_of_manifest_and_spec_come_together() -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse_manifest(MANIFEST | {"kind": "X", "spec": {"replicas": -1}})
    assert [problem.field for problem in caught.value.problems] == ["kind", "spec.replicas"]


@pytest.mark.parametrize("document", [None, 3, "text", [], b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(SpecInvalid):
        decode_spec(document)


@pytest.mark.parametrize(
    "url", ["http://user:secret@host/", "https://user@host", "http://a:secret@h?x=1", "http://u:sec ret@h", "http://u:secret\\@h"]
)
def test_a_url_with_user_information_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_spec({"load": {"engine": {"url": url}}})
    assert [problem.field for problem in caught.value.problems] == ["spec.load.engine.url"]
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.problems)


@pytest.mark.parametrize("url", ["http://host", "https://host:9090/prometheus?tenant=a@b", "http://[::1]:9090/"])
def test_a_url_without_user_information_is_taken(url: str) -> None:
    engine = decode_spec({"load": {"engine": {"url": url}}}).load.engine
    assert engine is not None
    assert engine.url == url


def test_what_is_shown_of_a_value_is_short_and_on_one_line() -> None:
    for value in ("a\n\x1b[31mb", "x" * 10_000, 10**5000, {"a": 1}, [1] * 1000, object(), b"\x00"):
        assert len(shown(value)) <= 80
        assert shown(value).isprintable()


def test_problems_survive_the_way_to_another_process() -> None:
    with pytest.raises(SpecInvalid) as caught:
        BatchConfiguration(failure_threshold=0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    assert isinstance(again.problems[0], Problem)


def test_free_form_objects_must_be_json() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(SpecInvalid, match="nested at most 64 deep"):
        decode_spec({"template": deep})
    for bad in (float("nan"), object(), {1: 2}, [b""]):
        with pytest.raises(SpecInvalid, match=r"spec\.template\.x"):
            decode_spec({"template": {"x": bad}})
