from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api import wire
from dtesn_api.spec import ModelConfiguration
from dtesn_api.spec.model import ESN_SIZE, MEMBRANE_DEPTH
from dtesn_sidecar import requests
from dtesn_sidecar.errors import InvalidInput, NotFound
from dtesn_sidecar.model.readout.value import OutputLayer, Readout
from dtesn_sidecar.requests import Wanted, checked

MODEL = ModelConfiguration(membrane_depth=3, esn_size=64)


def test_what_a_request_does_not_say_is_the_models_own() -> None:
    assert checked(MODEL, 300.0) == Wanted(depth=3, esn_size=64, output="summary", priority=1, timeout=None)
    assert checked(MODEL, 300.0, membrane_depth=7, esn_size=32, output="features", priority=0, timeout=2, model="dtesn") == Wanted(
        depth=7, esn_size=32, output="features", priority=0, timeout=2
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
        ({"output": "readout"}, "output", "summary or features: no readout is fitted for membrane_depth 3 and esn_size 64 (none at all)"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value_and_range(options: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(MODEL, 300.0, **options)
    assert refused.value.field == field
    assert expected in (refused.value.expected or "")
    assert repr(options[field]) in refused.value.detail or str(options[field]) in refused.value.detail


READOUT = Readout(ModelConfiguration(membrane_depth=2, esn_size=32), OutputLayer(2, 32, np.zeros((1, 128)), np.zeros(1)))


@given(st.integers(1, 16), st.sampled_from([32, 64]), st.sampled_from([None, *requests.OUTPUTS]))
def test_a_readout_is_the_default_for_its_own_depth_and_size_and_refused_for_any_other(depth: int, size: int, output: str | None) -> None:
    def asked() -> str:
        return checked(MODEL, 300.0, membrane_depth=depth, esn_size=size, output=output, readout=READOUT).output

    fitted = (depth, size) == (2, 32)
    if output == "readout" and not fitted:
        with pytest.raises(InvalidInput, match="only for membrane_depth 2 and esn_size 32") as refused:
            asked()
        assert refused.value.field == "output"
    else:
        assert asked() == (output or ("readout" if fitted else "summary"))


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
