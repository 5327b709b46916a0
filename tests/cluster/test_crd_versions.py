"""The rule of docs/versioning.md: a second version with the same schema loses nothing, whichever of the two is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.cluster import Cluster, until
from tests.cluster.control_plane import CRDS

from dtesn_api import names

GROUP = "versions.test"  # a group of the test's own: the real definition is everybody's
RESOURCE = f"{names.PLURAL}.{GROUP}"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "versioning.md"


def definition(stored: str) -> dict[str, Any]:
    """The definition as it will be once `v1beta1` is served beside `v1alpha1`."""
    found: dict[str, Any] = yaml.safe_load(CRDS[0].read_text(encoding="utf-8"))
    found["metadata"]["name"] = RESOURCE
    found["spec"]["group"] = GROUP
    found["spec"]["names"] |= {"shortNames": [], "categories": []}
    (alpha,) = found["spec"]["versions"]
    beta = {**deepcopy(alpha), "name": "v1beta1"}
    found["spec"]["versions"] = [{**one, "storage": one["name"] == stored} for one in (alpha, beta)]
    return found


@pytest.fixture
def served(control_plane: Cluster) -> Iterator[Cluster]:
    install(control_plane, "v1alpha1")
    yield control_plane
    control_plane.kubectl("delete", "crd", RESOURCE)


def install(cluster: Cluster, stored: str) -> None:
    cluster.kubectl("apply", "--server-side", "-f", "-", data=yaml.safe_dump(definition(stored)))
    for version in ("v1alpha1", "v1beta1"):
        until(lambda version=version: cluster.kubectl("get", of(version), "-A", check=False).returncode == 0, what=version)


def of(version: str) -> str:
    return f"{names.PLURAL}.{version}.{GROUP}"


def test_a_resource_is_the_same_in_both_versions_before_and_after_the_change_of_storage(served: Cluster, namespace: str) -> None:
    def get(version: str) -> dict[str, Any]:
        found: dict[str, Any] = served.get(f"{of(version)}/demo", namespace=namespace)
        assert found["apiVersion"] == f"{GROUP}/{version}"
        return {"spec": found["spec"], "status": found.get("status"), "uid": found["metadata"]["uid"]}

    def report(version: str, url: str) -> None:
        patch = f'{{"status": {{"url": "{url}"}}}}'
        served.kubectl("patch", f"{of(version)}/demo", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

    head = {"kind": names.KIND, "metadata": {"name": "demo"}}
    served.apply({**head, "apiVersion": f"{GROUP}/v1alpha1", "spec": {"batching": {"targetBatchSize": 12}}}, namespace=namespace)
    report("v1alpha1", "http://one")
    first = get("v1alpha1")
    assert get("v1beta1") == first
    install(served, "v1beta1")
    served.apply({**head, "apiVersion": f"{GROUP}/v1beta1", "spec": {"batching": {"targetBatchSize": 13}}}, namespace=namespace)
    report("v1alpha1", "http://two")
    second = get("v1beta1")
    assert get("v1alpha1") == second
    assert second["spec"] == {**first["spec"], "batching": {**first["spec"]["batching"], "targetBatchSize": 13}}
    assert second["status"] == {"url": "http://two"}


def test_all_served_versions_have_one_schema_and_no_webhook_converts_them() -> None:
    found = yaml.safe_load(CRDS[0].read_text(encoding="utf-8"))["spec"]
    first, *others = [version["schema"] for version in found["versions"] if version["served"]]
    assert all(other == first for other in others)
    assert found.get("conversion", {"strategy": "None"}) == {"strategy": "None"}


def test_the_page_names_the_versions_that_are_served() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for version in yaml.safe_load(CRDS[0].read_text(encoding="utf-8"))["spec"]["versions"]:
        assert f"`{names.GROUP}/{version['name']}`" in text or f"`{version['name']}`" in text
    assert re.search(rf"crd {names.PLURAL}\.{re.escape(names.GROUP)} ", text)
