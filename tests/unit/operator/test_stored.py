"""A resource that was stored under a newer definition is read without what this version does not know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.spec_values import valid_section

from dtesn_api.problems import SpecInvalid
from dtesn_api.reading import known_part
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator.batcher import batcher_of, stored


def manifest(spec: object) -> dict[str, Any]:
    return {"apiVersion": "dtesn.dev/v1alpha1", "kind": "DTESNBatcher", "metadata": {"name": "demo", "namespace": "shop"}, "spec": spec}


@given(valid_section(DTESNBatcherSpec))
def test_what_is_known_stays_as_it_is(spec: dict[str, Any]) -> None:
    assert known_part(DTESNBatcherSpec, spec) == spec
    assert stored(manifest(spec)) == batcher_of(manifest(spec))


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_fields_of_a_newer_version_are_passed_over_wherever_they_stand(junk: Any) -> None:
    source = {"name": "one", "url": "http://prometheus:9090", "query": "up", "newer": junk}
    spec = {"replicas": 3, "newer": junk, "batching": {"newer": junk, "maxBatchSize": 64}, "load": {"prometheus": [source]}}
    with pytest.raises(SpecInvalid):
        batcher_of(manifest(spec))
    found = stored(manifest(spec)).spec
    assert (found.replicas, found.batching.max_batch_size, found.load.prometheus[0].query) == (3, 64, "up")


def test_what_is_free_form_keeps_everything() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"gpu": "yes"}}}
    assert known_part(DTESNBatcherSpec, {"template": template}) == {"template": template}


@pytest.mark.parametrize("spec", [7, "text", [1]])
def test_what_is_no_spec_is_refused_all_the_same(spec: object) -> None:
    with pytest.raises(SpecInvalid):
        stored(manifest(spec))
