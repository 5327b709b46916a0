from __future__ import annotations

from typing import Any, get_args

import pytest

from dtesn_api import wire
from dtesn_api.spec import ModelConfiguration
from dtesn_api.spec.model import ESN_SIZE, MEMBRANE_DEPTH
from dtesn_sidecar import requests
from dtesn_sidecar.errors import InvalidInput, NotFound
from dtesn_sidecar.requests import Wanted, checked

MODEL = ModelConfiguration(membrane_depth=3, esn_size=64)


def test_what_a_request_does_not_say_is_the_models_own() -> None:
    assert checked(MODEL, 300.0) == Wanted(depth=3, esn_size=64, summary=True, priority=1, timeout=None)
    assert checked(MODEL, 300.0, membrane_depth=7, esn_size=32, output="features", priority=0, timeout=2, model="dtesn") == Wanted(
        depth=7, esn_size=32, summary=False, priority=0, timeout=2
    )


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"membrane_depth": 0}, "membrane_depth", "1 to 16"),
        ({"membrane_depth": 17}, "membrane_depth", "1 to 16"),
        ({"membrane_depth": True}, "membrane_depth", "1 to 16"),
        ({"esn_size": 31}, "esn_size", "32 to 4096"),
        ({"esn_size": 64.0}, "esn_size", "32 to 4096"),
        ({"priority": 3}, "priority", "0 to 2"),
        ({"timeout": 0}, "timeout", "at most 300"),
        ({"timeout": float("nan")}, "timeout", "at most 300"),
        ({"timeout": 301}, "timeout", "at most 300"),
        ({"output": "everything"}, "output", "summary, features, readout"),
        ({"output": "readout"}, "output", "summary or features"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value_and_range(options: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(MODEL, 300.0, **options)
    assert refused.value.field == field
    assert expected in (refused.value.expected or "")
    assert repr(options[field]) in refused.value.detail or str(options[field]) in refused.value.detail


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(MODEL, 300.0, output="x" * 10_000)
    assert len(refused.value.detail) < 200


def test_another_models_name_is_not_found() -> None:
    with pytest.raises(NotFound):
        checked(MODEL, 300.0, model="other")


def test_the_bounds_are_those_of_the_wire() -> None:
    assert (MEMBRANE_DEPTH.ge, MEMBRANE_DEPTH.le) == requests.DEPTHS
    assert (ESN_SIZE.ge, ESN_SIZE.le) == requests.SIZES
    assert set(get_args(wire.Output)) == set(requests.OUTPUTS)
