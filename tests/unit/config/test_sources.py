"""Flag, environment, file, default: which counts, and that every problem of all is told at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec, LoadConfiguration
from dtesn_sidecar.config import Configuration, load_configuration
from dtesn_sidecar.config.sources import environment_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batcher.yaml"


def problems(*arguments: object) -> list[str]:
    with pytest.raises(SpecInvalid) as caught:
        load_configuration(*arguments)  # type: ignore[arg-type]
    return [problem.message for problem in caught.value.problems]


def test_without_any_source_all_defaults_hold() -> None:
    assert load_configuration(None, {}) == Configuration(spec=DTESNBatcherSpec())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_by=st.sets(st.sampled_from(["flag", "environment", "file"])))
def test_the_first_source_that_says_something_counts(file: Path, given_by: set[str]) -> None:
    values = {"flag": 1001, "environment": 1002, "file": 1003}
    file.write_text("sidecar: {port: 1003}" if "file" in given_by else "{}")
    environ = {"DTESN_SIDECAR_PORT": "1002"} if "environment" in given_by else {}
    flags = {"sidecar.port": 1001 if "flag" in given_by else None}
    wanted = next((values[source] for source in values if source in given_by), 8080)
    assert load_configuration(file, environ, flags).spec.sidecar.port == wanted


def test_sources_add_up_field_by_field(file: Path) -> None:
    file.write_text("batching: {maxBatchSize: 64, minBatchSize: 2}")
    environ = {"DTESN_BATCHING_TARGET_BATCH_SIZE": "16", "PATH": "/bin"}
    batching = load_configuration(file, environ, {"batching.minBatchSize": 4}).spec.batching
    assert batching == BatchConfiguration(max_batch_size=64, target_batch_size=16, min_batch_size=4)


def test_rules_hold_for_what_all_sources_say_together(file: Path) -> None:
    file.write_text("batching: {maxBatchSize: 4}")
    assert load_configuration(file, {"DTESN_BATCHING_TARGET_BATCH_SIZE": "4"}).spec.batching.target_batch_size == 4
    assert problems(file, {"DTESN_BATCHING_TARGET_BATCH_SIZE": "5"}) == [
        "spec.batching.targetBatchSize (5) must be at most maxBatchSize (4) (set by DTESN_BATCHING_TARGET_BATCH_SIZE)"
    ]


def test_a_mounted_file_with_the_live_sections_alone_is_enough(file: Path) -> None:
    file.write_text("batching: {targetBatchSize: 3}\nload: {nvml: {weight: 2}}\n")
    spec = load_configuration(file, {}).spec
    assert spec.batching.target_batch_size == 3
    assert spec.load.nvml.weight == 2.0
    assert spec.model == DTESNBatcherSpec().model


def test_the_hash_is_that_of_the_bytes_of_the_file(file: Path) -> None:
    data = b"# the bytes count, comments too\nbatching: {}\n"
    file.write_bytes(data)
    assert load_configuration(file, {}).config_hash == hashlib.sha256(data).hexdigest()


def test_what_only_the_operator_reads_is_checked(file: Path) -> None:
    file.write_text("service: {type: NodePort}\nautoscaling: {minReplicas: 3}\n")
    assert load_configuration(file, {}).spec.service.type == "NodePort"
    file.write_text("service: {type: Headless}")
    assert problems(file, {}) == ["spec.service.type is 'Headless', but must be one of ClusterIP, LoadBalancer, NodePort"]


def test_every_problem_of_every_source_is_told(file: Path) -> None:
    file.write_text("batching: {minBatchSize: 0, minBatchSize: 0}\nmodel: {order: 7}\nnope: 1\n")
    environ = {"DTESN_SIDECAR_PORT": "many", "DTESN_BATCHING_MIN_BATCH": "1"}
    found = "\n".join(problems(file, environ, {"backend": "torch"}))
    for words in (
        "the key 'minBatchSize' is given more than once",
        "spec.batching.minBatchSize is 0",
        "spec.model.order is 7",
        "spec.nope is an unknown field",
        "spec.sidecar.port is 'many', but must be an integer from 1 to 65535 (set by DTESN_SIDECAR_PORT)",
        "DTESN_BATCHING_MIN_BATCH in the environment is an unknown setting; did you mean DTESN_BATCHING_MIN_BATCH_SIZE?",
        "spec.backend is 'torch', but must be one of auto, cupy, numpy (set by the flag for backend)",
    ):
        assert found.count(words) == 1


def test_a_bad_value_of_the_file_is_told_even_where_the_environment_overrides_it(file: Path) -> None:
    file.write_text("sidecar: {port: many}")
    assert problems(file, {"DTESN_SIDECAR_PORT": "9000"}) == ["spec.sidecar.port is 'many', but must be an integer from 1 to 65535"]


def test_the_environment_is_checked_where_the_file_cannot_be_read(tmp_path: Path) -> None:
    found = problems(tmp_path / "absent.yaml", {"DTESN_BACKEND": "x"})
    assert found[0].endswith("absent.yaml cannot be read: No such file or directory")
    assert found[1].startswith("spec.backend is 'x'")
    assert "cannot be read: Is a directory" in problems(tmp_path, {})[0]


@pytest.mark.parametrize("variable", sorted(environment_settings()))
def test_every_setting_can_come_from_the_environment(variable: str) -> None:
    path, _ = environment_settings()[variable]
    # A value that no field takes shows that the variable reaches its own field.
    found = problems(None, {variable: "\x00"})
    assert any(message.startswith(f"spec.{path} ") and message.endswith(f"(set by {variable})") for message in found)


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("DTESN_DYNAMIC_BATCHING", "false", "dynamic_batching", False),
        ("DTESN_BACKEND", "numpy", "backend", "numpy"),
        ("DTESN_MODEL_NAME", "8", "model.name", "8"),
        ("DTESN_MODEL_LEAK_RATE", "1", "model.leak_rate", 1.0),
        ("DTESN_MODEL_READOUT_PATH", "/models/a", "model.readout.path", "/models/a"),
        ("DTESN_BATCHING_DEFAULT_TIMEOUT_SECONDS", "2.5", "batching.default_timeout", 2.5),
        ("DTESN_SIDECAR_LOGGING_LEVEL", "debug", "sidecar.logging.level", "debug"),
        ("DTESN_LOAD_ENGINE_URL", "http://localhost:2242", "load.engine.url", "http://localhost:2242"),
    ],
)
def test_text_of_the_environment_takes_the_type_of_the_field(variable: str, text: str, path: str, value: object) -> None:
    found: object = load_configuration(None, {variable: text}).spec
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_a_list_comes_from_the_environment_as_json() -> None:
    text = '[{"name": "gateway", "url": "http://p:9090", "query": "up"}]'
    (source,) = load_configuration(None, {"DTESN_LOAD_PROMETHEUS": text}).spec.load.prometheus
    assert source.name == "gateway"
    assert load_configuration(None, {}).spec.load == LoadConfiguration()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DTESN_SERVICE_HOST", "10.0.0.7"),
        ("DTESN_SERVICE_PORT", "80"),
        ("DTESN_SERVICE_PORT_HTTP", "80"),
        ("DTESN_PORT", "tcp://10.0.0.7:80"),
        ("DTESN_PORT_80_TCP", "tcp://10.0.0.7:80"),
        ("DTESN_PORT_80_TCP_ADDR", "10.0.0.7"),
        ("DTESN_PORT_80_TCP_PORT", "80"),
        ("DTESN_PORT_80_TCP_PROTO", "tcp"),
        ("DTESN_TEXT_DEMO_SERVICE_HOST", "10.0.0.7"),
        ("DTESN_SIDECAR_PORT", "tcp://10.0.0.7:80"),
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_setting(name: str, text: str) -> None:
    assert load_configuration(None, {name: text}).spec == DTESNBatcherSpec()


@pytest.mark.parametrize("name", ["DTESN_", "DTESN_REPLICAS", "DTESN_SERVICE_TYPE", "DTESN_SIDECAR_IMAGE", "DTESN_BATCHING", "DTESN_PORT"])
def test_a_variable_of_ours_that_is_no_setting_is_an_error(name: str) -> None:
    (message,) = problems(None, {name: "1"})
    assert message.startswith(f"{name} in the environment is an unknown setting; ")
