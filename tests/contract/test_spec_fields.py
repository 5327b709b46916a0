"""Every field of the specification: bounds, names, defaults, and what is said where a value is refused."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from tests.contract.spec_values import REQUIRED, Spot, bad_values, bounds, placed, sections, spots, valid_section

from dtesn_api.problems import SpecInvalid, shown
from dtesn_api.reading import read
from dtesn_api.schema import environment_name, fields, to_wire, walk, wire_name
from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec, ModelConfiguration, decode_spec

BAD = [pytest.param(spot, bad, id=f"{spot.path}-{i}") for spot in spots() for i, bad in enumerate(bad_values(spot.field.kind))]


@pytest.mark.parametrize(("spot", "bad"), BAD)
def test_a_bad_value_on_the_wire_names_the_field_the_value_and_the_range(spot: Spot, bad: Any) -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_spec(placed(spot, bad))
    # Entries of a list that is of a right length are at fault themselves.
    found = [problem for problem in caught.value.problems if problem.field == spot.path or problem.field.startswith(f"{spot.path}.")]
    assert found
    problem = found[0]
    assert problem.field in problem.message
    assert problem.expected in problem.message
    if problem.field == spot.path:
        assert shown(bad) in problem.message
        for bound in bounds(spot.field.kind):
            assert bound in problem.message


@pytest.mark.parametrize(
    ("spot", "bad"), [p for p in BAD if p.values[0].field.section is None and not isinstance(p.values[1], (list, dict))]
)
def test_what_a_constructor_refuses_is_refused_on_the_wire_with_the_same_problems(spot: Spot, bad: Any) -> None:
    base = REQUIRED.get(spot.section.__name__, {})
    names = {field.wire: field.name for field in fields(spot.section)}
    with pytest.raises(SpecInvalid) as constructed:
        spot.section(**{names[wire]: value for wire, value in base.items()} | {spot.field.name: bad})
    with pytest.raises(SpecInvalid) as decoded:
        read(spot.section, base | {spot.field.wire: bad})
    assert [p.field for p in constructed.value.problems] == [spot.field.name]
    assert [p.field for p in decoded.value.problems] == [spot.field.wire]
    for one, other in zip(constructed.value.problems, decoded.value.problems, strict=True):
        assert repr((one.value, one.expected)) == repr((other.value, other.expected))
        assert one.message.removeprefix(one.field) == other.message.removeprefix(other.field)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_an_unknown_field_is_refused_with_the_nearest_name(section: type[msgspec.Struct]) -> None:
    wire = fields(section)[0].wire
    misspelt = wire + wire[-1]
    with pytest.raises(SpecInvalid) as caught:
        read(section, REQUIRED.get(section.__name__, {}) | {misspelt: 1}, "spec.x")
    messages = [p.message for p in caught.value.problems if p.field == f"spec.x.{misspelt}"]
    assert messages == [f"spec.x.{misspelt} is an unknown field; did you mean {wire}?"]


def test_a_million_unknown_fields_are_summed_up() -> None:
    with pytest.raises(SpecInvalid) as caught:
        read(BatchConfiguration, {f"x{i}": 1 for i in range(100_000)}, "spec.batching")
    assert len(caught.value.problems) == 17
    assert "99984 more unknown fields" in caught.value.problems[-1].message


def test_every_problem_is_listed_and_not_the_first_alone() -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_spec({"replicas": -1, "nope": 1, "batching": {"strategy": "learned", "minBatchSize": 40}, "model": {"order": 5}})
    assert [p.field for p in caught.value.problems] == [
        "spec.nope",
        "spec.replicas",
        "spec.model.order",
        "spec.batching.strategy",
        "spec.batching.minBatchSize",
    ]
    for problem in caught.value.problems:
        assert problem.message in str(caught.value)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_the_names_of_a_section_map_one_to_one(section: type[msgspec.Struct]) -> None:
    there = {field.name: field.wire for field in fields(section)}
    assert len(set(there.values())) == len(there)
    for name, wire in there.items():
        assert wire == wire_name(name)
        assert re.fullmatch(r"[a-z][a-zA-Z0-9]*", wire)
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", wire).lower()
        assert plain in (name, f"{name}_seconds", name.rstrip("_"))


def test_times_carry_their_unit_on_the_wire() -> None:
    wire = {field.name: field.wire for field in fields(BatchConfiguration)}
    assert wire["circuit_breaker_timeout"] == "circuitBreakerTimeoutSeconds"
    assert wire["default_timeout"] == "defaultTimeoutSeconds"
    assert wire["min_timeout"] == "minTimeoutSeconds"
    assert wire["max_timeout"] == "maxTimeoutSeconds"
    assert wire["aging_ms"] == "agingMs"
    assert wire["max_batch_wait_ms"] == "maxBatchWaitMs"


def test_environment_names_are_unique_and_follow_the_path() -> None:
    names = [environment_name(place.path) for place in walk(DTESNBatcherSpec)]
    assert len(set(names)) == len(names)
    assert environment_name("batching.targetBatchSize") == "DTESN_BATCHING_TARGET_BATCH_SIZE"


@pytest.mark.parametrize("spot", list(spots()), ids=lambda spot: spot.path)
def test_every_field_is_described_in_a_sentence(spot: Spot) -> None:
    assert re.fullmatch(r"\S.{8,}[.]", spot.field.description, re.DOTALL)


def test_every_section_says_who_acts_on_a_change() -> None:
    assert {place.applies for place in walk(DTESNBatcherSpec)} == {"live", "restart", "operator"}
    assert {place.path for place in walk(DTESNBatcherSpec) if place.applies == "live" and "." not in place.path} == {"batching", "load"}


def test_the_defaults_of_batching_are_those_of_the_contract() -> None:
    table = {
        "min_batch_size": 1,
        "max_batch_size": 32,
        "target_batch_size": 8,
        "low_load_threshold": 0.3,
        "high_load_threshold": 0.8,
        "load_adjustment_factor": 0.2,
        "max_batch_wait_ms": 50,
        "min_batch_wait_ms": 5,
        "enable_adaptive_sizing": True,
        "performance_window_size": 100,
        "adaptation_rate": 0.1,
        "enable_circuit_breaker": True,
        "failure_threshold": 5,
        "circuit_breaker_timeout": 30,
        "strategy": "load_aware",
        "max_batch_nodes": 65_536,
        "max_queue_size": 1024,
        "max_queue_nodes": 1_048_576,
        "default_timeout": None,
        "min_timeout": 1,
        "max_timeout": 300,
        "aging_ms": 500,
        "max_direct_concurrency": None,
        "max_concurrent_batches": None,
        "max_batch_seconds": 0.25,
        "max_request_seconds": 30,
    }
    assert msgspec.structs.asdict(BatchConfiguration()) == table


def test_the_defaults_of_the_model_are_those_of_the_contract() -> None:
    table = {
        "name": "dtesn",
        "membrane_depth": 4,
        "esn_size": 512,
        "seed": 42,
        "spectral_radius": 0.9,
        "leak_rate": 0.3,
        "input_scaling": 1,
        "inter_scaling": 1,
        "bias": 0.1,
        "aggregation_exponent": 0,
        "order": 1,
        "topology": "orthogonal",
        "dtype": "float32",
        "max_nodes": 4096,
        "max_model_bytes": 536_870_912,
        "readout": None,
    }
    assert msgspec.structs.asdict(ModelConfiguration()) == table


def test_whole_floats_stand_for_integers_and_null_for_absent() -> None:
    spec = decode_spec({"batching": {"targetBatchSize": 9.0, "maxBatchSize": None, "agingMs": 250}, "model": None})
    assert spec == DTESNBatcherSpec(batching=BatchConfiguration(target_batch_size=9, aging_ms=250.0))
    assert type(spec.batching.target_batch_size) is int
    assert type(spec.batching.aging_ms) is float
    assert type(BatchConfiguration(aging_ms=250).aging_ms) is float


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much], deadline=None
)
@given(valid_section(DTESNBatcherSpec))
def test_any_valid_specification_survives_the_wire_and_json(raw: dict[str, Any]) -> None:
    spec = read(DTESNBatcherSpec, raw)
    assert read(DTESNBatcherSpec, to_wire(spec)) == spec
    assert decode_spec(msgspec.json.encode(to_wire(spec))) == spec
    assert msgspec.json.decode(msgspec.json.encode(spec), type=DTESNBatcherSpec) == spec
    assert DTESNBatcherSpec(**{field.name: getattr(spec, field.name) for field in fields(DTESNBatcherSpec)}) == spec
