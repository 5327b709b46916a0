"""The resource as kubectl shows it: its explanation, its defaults, its names, its columns and its scale."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.batchers import batcher
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import CRDS
from tests.cluster.dry_runs import DryRuns
from tests.cluster.test_crd_fields import SECTIONS

from dtesn_api import names
from dtesn_api.schema import fields, to_wire
from dtesn_api.spec import DTESNBatcherSpec

LEAST_ANNOTATION = 200 * 1024  # of the 256 KiB that all annotations may have, for kubectl keeps a copy of what it applied in one


def words(text: str) -> str:
    """In one line, whatever its breaks and indents."""
    return re.sub(r"\s+", " ", text)


def explained(cluster: Cluster, path: str) -> str:
    """What `kubectl explain` says."""
    return cluster.kubectl("explain", path).stdout


def test_the_readme_way_installs_it_and_leaves_room_in_the_annotation(control_plane: Cluster) -> None:
    control_plane.kubectl("apply", "--dry-run=server", "--filename", str(Path(CRDS[0]).parent))
    for file in CRDS:
        assert file.stat().st_size < LEAST_ANNOTATION


def test_explain_describes_batching_field_by_field(control_plane: Cluster) -> None:
    text = explained(control_plane, "dtesnbatcher.spec.batching")
    assert words(text).startswith("GROUP: dtesn.dev KIND: DTESNBatcher VERSION: v1alpha1 FIELD: batching <Object>")
    for field in fields(type(DTESNBatcherSpec().batching)):
        pattern = rf"^  {field.wire}\t<(integer|number|string|boolean)>\n(?: +enum: .+\n)?    {re.escape(field.description.split()[0])}"
        assert re.search(pattern, text, re.MULTILINE), field.wire
    assert re.search(r"enum: .*load_aware", text)


@pytest.mark.parametrize("path", SECTIONS, ids=str)
def test_explain_knows_every_section_and_all_its_fields(control_plane: Cluster, path: str) -> None:
    text = words(explained(control_plane, f"dtesnbatcher.{path.replace('[0]', '')}"))
    for field in fields(SECTIONS[path]):
        assert f"{field.wire} <" in text
        assert words(field.description) in text


def test_an_empty_spec_is_stored_with_every_default(dry_runs: DryRuns) -> None:
    everything = pruned(to_wire(DTESNBatcherSpec()))
    assert dry_runs.create({}).body["spec"] == everything
    assert dry_runs.create({"batching": {}, "model": {}}).body["spec"] == everything


def test_defaults_stand_beside_what_is_given(dry_runs: DryRuns) -> None:
    stored = dry_runs.create({"batching": {"targetBatchSize": 12}}).body["spec"]
    assert stored["batching"] == {**pruned(to_wire(DTESNBatcherSpec().batching)), "targetBatchSize": 12}
    source = {"name": "gateway", "url": "http://prometheus:9090", "query": "up"}
    (entry,) = dry_runs.create({"load": {"prometheus": [source]}}).body["spec"]["load"]["prometheus"]
    assert (entry["weight"], entry["intervalSeconds"], entry["holdSeconds"]) == (1, 5, 30)


def pruned(wire: Any) -> Any:
    """Without what is absent."""
    if isinstance(wire, dict):
        return {name: pruned(value) for name, value in wire.items() if value is not None}
    return wire


@pytest.mark.parametrize("name", ["dtesnbatchers", "dtesnbatcher", "dtesn", "dtb"])
def test_it_is_found_by_its_names(control_plane: Cluster, namespace: str, name: str) -> None:
    control_plane.apply(batcher(), namespace=namespace)
    assert control_plane.kubectl("get", name, "--namespace", namespace, "--output=name").stdout == "dtesnbatcher.dtesn.dev/demo\n"


def test_get_all_lists_it(control_plane: Cluster, namespace: str) -> None:
    control_plane.apply(batcher(), namespace=namespace)
    assert "dtesnbatcher.dtesn.dev/demo" in control_plane.kubectl("get", "all", "--namespace", namespace, "--output=name").stdout


def test_the_columns_show_what_the_status_says(control_plane: Cluster, namespace: str) -> None:
    control_plane.apply(batcher(backend="numpy"), namespace=namespace)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Available",
        "message": "2 of 2 pods",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    status = {"conditions": [condition], "readyReplicas": 2, "observed": {"load": 0.42, "batchSize": 7.5}}
    patch_status(control_plane, namespace, status)
    head, line = control_plane.kubectl("get", "dtesn", "--namespace", namespace).stdout.splitlines()
    assert head.split() == ["NAME", "READY", "REPLICAS", "BACKEND", "BATCH", "LOAD", "AGE"]
    assert line.split()[:-1] == ["demo", "True", "2", "numpy", "7.5", "0.42"]


def test_its_scale_reads_and_writes_the_replicas(control_plane: Cluster, namespace: str) -> None:
    control_plane.apply(batcher(replicas=2), namespace=namespace)
    patch_status(control_plane, namespace, {"replicas": 2, "selector": "app.kubernetes.io/instance=demo"})
    control_plane.kubectl("scale", "dtesn/demo", "--namespace", namespace, "--current-replicas=2", "--replicas=5")
    path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}/demo/scale"
    scale = json.loads(control_plane.kubectl("get", "--raw", path).stdout)
    assert scale["kind"] == "Scale"
    assert scale["spec"] == {"replicas": 5}
    assert scale["status"] == {"replicas": 2, "selector": "app.kubernetes.io/instance=demo"}


def test_the_status_is_written_through_its_subresource_alone(control_plane: Cluster, namespace: str) -> None:
    control_plane.apply({**batcher(), "status": {"url": "http://elsewhere"}}, namespace=namespace)
    patch_status(control_plane, namespace, {"url": "http://demo"})
    generation = control_plane.get("dtesn/demo", namespace=namespace)["metadata"]["generation"]
    control_plane.apply({**batcher(replicas=3), "status": {"url": "http://elsewhere"}}, namespace=namespace)
    found = control_plane.get("dtesn/demo", namespace=namespace)
    assert found["status"] == {"url": "http://demo"}
    assert found["metadata"]["generation"] == generation + 1


@pytest.mark.parametrize("name", ["Demo", "1demo", "demo-", "a.b", "a" * 53])
def test_a_name_that_no_service_can_have_is_refused(dry_runs: DryRuns, name: str) -> None:
    answer = dry_runs.create({}, name)
    assert answer.code == 422
    assert "metadata.name" in answer.message


def test_a_name_of_52_letters_is_accepted(dry_runs: DryRuns) -> None:
    assert dry_runs.create({}, "a" * 52).code == 201


def patch_status(cluster: Cluster, namespace: str, status: dict[str, Any]) -> None:
    """Write a status as the operator does."""
    cluster.kubectl("patch", "dtesn/demo", "-n", namespace, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
