"""What the sidecar is told is what the resource says: the file and the environment, read by the sidecar's own reader."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from msgspec import structs
from tests.unit.operator.specs import CLUSTER, EVERYTHING, batcher, batchers, kind_of, sidecar_of, template_of

from dtesn_api import names
from dtesn_api.schema import environment_name, walk
from dtesn_api.spec import DTESNBatcherSpec, ReadoutSource
from dtesn_operator import kinds
from dtesn_operator.batcher import Batcher
from dtesn_operator.desired import Desired, desired
from dtesn_sidecar.config import Configuration, load_configuration
from dtesn_sidecar.model.readout.store import path_of


def expanded(value: str, known: Mapping[str, str]) -> str:
    """The value as the kubelet gives it to the process: `$(NAME)` is replaced where it is known, and `$$` is `$`."""
    return re.sub(r"\$(?:\$|\((.*?)\))", lambda found: "$" if found[1] is None else known.get(found[1], found[0]), value)


def as_the_sidecar_reads_it(result: Desired) -> Configuration:
    container = sidecar_of(template_of(result)["spec"])
    environ: dict[str, str] = {}
    for variable in container.get("env", ()):
        if "value" in variable:
            environ[variable["name"]] = expanded(variable["value"], environ)
    port = int(container["args"][container["args"].index("--port") + 1])
    with TemporaryDirectory() as folder:
        file = Path(folder, names.CONFIG_FILE)
        file.write_bytes(kind_of(result, kinds.CONFIG_MAP)["data"][names.CONFIG_FILE].encode())
        return load_configuration(file, environ, {"sidecar.port": port})


@settings(max_examples=100)
@given(batchers())
def test_the_sidecar_reads_from_the_pod_what_the_resource_says(resource: Batcher) -> None:
    ours = structs.replace(resource.spec.sidecar, env=())
    wanted = structs.replace(resource.spec, sidecar=ours)
    result = desired(Batcher("shop", resource.name, spec=wanted), CLUSTER)
    found = as_the_sidecar_reads_it(result)
    assert found.config_hash == result.config_hash
    readout = wanted.model.readout
    if readout is not None:
        wanted = structs.replace(wanted, model=structs.replace(wanted.model, readout=ReadoutSource(path=str(path_of(readout)))))
    grace = template_of(result)["spec"]["terminationGracePeriodSeconds"]
    assert found.spec.batching.max_timeout <= grace - ours.drain_delay_seconds - 10
    if found.spec.batching.max_timeout == wanted.batching.max_timeout:
        assert found.spec.batching == wanted.batching
    for section in ("dynamic_batching", "model", "backend", "load"):
        assert getattr(found.spec, section) == getattr(wanted, section), section
    assert structs.replace(found.spec.sidecar, resources=ours.resources) == ours


@settings(max_examples=50)
@given(batchers())
def test_the_file_holds_live_settings_alone_and_the_environment_none(resource: Batcher) -> None:
    result = desired(structs_without_env(resource), CLUSTER)
    text = kind_of(result, kinds.CONFIG_MAP)["data"][names.CONFIG_FILE]
    assert set(json.loads(text)) == {"batching", "load"}
    live = {environment_name(place.path) for place in walk(DTESNBatcherSpec) if place.applies == "live"}
    container = sidecar_of(template_of(result)["spec"])
    assert not live & {variable["name"] for variable in container.get("env", [])}


def structs_without_env(resource: Batcher) -> Batcher:
    sidecar = structs.replace(resource.spec.sidecar, env=())
    return Batcher(resource.namespace, resource.name, spec=structs.replace(resource.spec, sidecar=sidecar))


def test_what_is_at_its_default_is_not_written() -> None:
    result = desired(batcher({"batching": {"targetBatchSize": 8}, "model": {"seed": 42}, "backend": "numpy"}), CLUSTER)
    assert json.loads(kind_of(result, kinds.CONFIG_MAP)["data"][names.CONFIG_FILE]) == {"batching": {}, "load": {}}
    assert [variable["name"] for variable in sidecar_of(template_of(result)["spec"])["env"]] == ["DTESN_BACKEND"]


def test_the_users_variables_stand_beside_the_settings_and_count_where_both_name_one() -> None:
    spec = {
        "model": {"seed": 7, "order": 2},
        "sidecar": {"env": [{"name": "DTESN_MODEL_SEED", "value": "8"}, {"name": "TZ", "value": "UTC"}]},
    }
    variables = sidecar_of(template_of(desired(batcher(spec), CLUSTER))["spec"])["env"]
    assert [(one["name"], one["value"]) for one in variables] == [
        ("DTESN_MODEL_ORDER", "2"),
        ("CUPY_CACHE_DIR", "/var/cache/cupy"),
        ("DTESN_MODEL_SEED", "8"),
        ("TZ", "UTC"),
    ]


def test_a_dollar_in_a_path_stays_one() -> None:
    found = as_the_sidecar_reads_it(desired(batcher({"model": {"readout": {"path": "/a$(HOME)$$(B)$"}}}), CLUSTER))
    assert found.spec.model.readout == ReadoutSource(path="/a$(HOME)$$(B)$")


@pytest.mark.parametrize(
    ("grace", "wanted"),
    [
        (None, (300.0, 1.0, 120.0)),
        (600, (300.0, 1.0, 120.0)),
        (100, (85.0, 1.0, 85.0)),
        (16, (1.0, 1.0, 1.0)),
    ],
)
def test_timeouts_are_lowered_to_fit_the_users_grace(grace: int | None, wanted: tuple[float, float, float]) -> None:
    spec = {"batching": {"defaultTimeoutSeconds": 120}, "template": {"spec": {"terminationGracePeriodSeconds": grace}}}
    result = desired(batcher(spec), CLUSTER)
    batching = as_the_sidecar_reads_it(result).spec.batching
    assert (batching.max_timeout, batching.min_timeout, batching.default_timeout) == wanted
    assert template_of(result)["spec"]["terminationGracePeriodSeconds"] == (315 if grace is None else grace)


def test_a_fraction_of_a_second_rounds_the_grace_up() -> None:
    result = desired(batcher({"batching": {"maxTimeoutSeconds": 20.25}, "sidecar": {"drainDelaySeconds": 3}}), CLUSTER)
    assert template_of(result)["spec"]["terminationGracePeriodSeconds"] == 3 + 21 + 10
    assert as_the_sidecar_reads_it(result).spec.batching.max_timeout == 20.25


def test_no_secret_is_read_or_copied_only_its_name_is_mounted() -> None:
    spec = {**EVERYTHING, "sidecar": {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}
    result = desired(batcher(spec), CLUSTER)
    assert "Secret" not in [one["kind"] for one in result.objects]
    pod = template_of(result)["spec"]
    (volume,) = [one for one in pod["volumes"] if "secret" in one]
    assert volume["secret"] == {"secretName": "gateway-token", "optional": True}
    mounts = {mount["name"]: mount for mount in sidecar_of(pod)["volumeMounts"]}
    assert mounts[volume["name"]] == {"name": volume["name"], "mountPath": "/etc/dtesn/secrets/gateway-token", "readOnly": True}


def test_a_secret_of_two_sources_is_mounted_once() -> None:
    sources = [{"name": name, "url": "http://p:9090", "query": "up", "secretRef": {"name": "token"}} for name in ("a", "b")]
    pod = template_of(desired(batcher({"load": {"prometheus": sources}}), CLUSTER))["spec"]
    assert len([volume for volume in pod["volumes"] if "secret" in volume]) == 1
