"""The schema and Python agree: what one accepts the other accepts, on thousands of specs of which most are a little wrong."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cluster.dry_runs import Answer, DryRuns
from tests.cluster.test_crd_fields import SECTIONS, SPOTS, json_can_say
from tests.contract.spec_values import REQUIRED, Spot, bad_values, valid_section, valid_value

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import DTESNBatcherSpec, decode_spec

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)
EACH = 40  # changes of one spec, each by itself
Change = tuple[Spot, Any]


def values(spot: Spot) -> st.SearchStrategy[Any]:
    """For a field: values that it takes, values just outside, and values that have nothing to do with it."""
    bad = [value for value in bad_values(spot.field.kind) if json_can_say(value)]
    return valid_value(spot.field.kind) | st.sampled_from(bad) | ANY_JSON


VALUES = {spot.path: values(spot) for spot in SPOTS}
CHANGES = st.sampled_from(SPOTS).flatmap(lambda spot: st.tuples(st.just(spot), VALUES[spot.path]))


def changed(spec: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    """The spec with other values at these spots; what must stand around them comes with them."""
    spec = deepcopy(spec)
    for spot, value in changes:
        inner, path = spec, "spec"
        *above, leaf = spot.path.removeprefix("spec.").split(".")
        for part in above:
            name, path = part.removesuffix("[0]"), f"{path}.{part}"
            around = dict(REQUIRED.get(SECTIONS[path].__name__, {}))
            if part.endswith("[0]"):
                entries = inner.get(name)
                if not (isinstance(entries, list) and entries and isinstance(entries[0], dict)):
                    inner[name] = entries = [around]
                inner = entries[0]
            else:
                if not isinstance(inner.get(name), dict):
                    inner[name] = around
                inner = inner[name]
        inner[leaf] = value
    return spec


def read(spec: Any) -> DTESNBatcherSpec | SpecInvalid:
    """What Python makes of it."""
    try:
        return decode_spec(spec)
    except SpecInvalid as error:
        return error


def floats(value: Any) -> Any:
    """The value with every number a float: Go writes a large float as digits, and digits are an integer to Python."""
    if isinstance(value, dict):
        return {key: floats(one) for key, one in value.items()}
    if isinstance(value, list):
        return [floats(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def left_to_the_api_server(answer: Answer) -> bool:
    """Whether all that is wrong is the form of the pod template, of which Python looks at the names of containers alone."""
    return bool(answer.causes) and all(path.startswith("spec.template") for path in answer.causes)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a counterexample: it is what one wants to read
@settings(
    max_examples=30,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
@given(valid_section(DTESNBatcherSpec), st.lists(st.lists(CHANGES, min_size=1, max_size=2), min_size=EACH, max_size=EACH))
def test_what_the_api_server_accepts_python_accepts_and_the_other_way_round(
    dry_runs: DryRuns, whole: dict[str, Any], changes: list[list[Change]]
) -> None:
    specs = [json.loads(json.dumps(spec)) for spec in (whole, *(changed(one, some) for some in changes for one in ({}, whole)))]
    for spec, answer in zip(specs, dry_runs.create_all(specs), strict=True):
        ours = read(spec)
        if answer.code == 201:
            assert isinstance(ours, DTESNBatcherSpec), f"Python alone refuses {json.dumps(spec)}: {ours}"
            assert decode_spec(floats(answer.body["spec"])) == decode_spec(floats(spec)), f"stored otherwise: {json.dumps(spec)}"
        else:
            assert answer.code in (400, 422), answer
            refused = isinstance(ours, SpecInvalid) or left_to_the_api_server(answer)
            assert refused, f"the API server alone refuses {json.dumps(spec)}: {answer.message}"
