from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.bodies import BodyMalformed
from dtesn_api.problems import SpecInvalid, problem
from dtesn_api.wire import Output
from dtesn_sidecar import errors
from dtesn_sidecar.compute.messages import (
    Done,
    Drop,
    Fault,
    Item,
    Report,
    Results,
    Run,
    decode_in_child,
    decode_in_parent,
    encode,
    error_of,
    fault_of,
)

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.DTESNError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_crosses_the_process_boundary_as_itself(kind: type[errors.DTESNError]) -> None:
    error = kind("what happened", retry_after=2.5, field="input_data", value=7, expected="text")
    back = error_of(msgspec.msgpack.decode(encode(fault_of(error)), type=Fault))
    assert type(back) is kind
    assert vars(back) == vars(error)


@pytest.mark.parametrize("value", [10**40, object(), {"a": 1}, "x" * 10_000, float("nan")])
def test_any_value_of_an_invalid_input_can_be_sent(value: object) -> None:
    back = error_of(msgspec.msgpack.decode(encode(fault_of(errors.InvalidInput("bad", field="f", value=value))), type=Fault))
    assert isinstance(back, errors.InvalidInput)
    assert len(str(back.value)) <= 500


def test_all_problems_of_a_body_cross_the_process_boundary() -> None:
    problems = [problem("a", 1, "2"), problem("b", "x", "y")]
    back = error_of(msgspec.msgpack.decode(encode(fault_of(SpecInvalid(problems))), type=Fault))
    assert isinstance(back, SpecInvalid)
    assert list(back.problems) == problems


def test_a_malformed_body_is_a_400() -> None:
    assert isinstance(error_of(fault_of(BodyMalformed("no JSON"))), errors.MalformedBody)


def test_running_out_of_memory_is_told_as_such() -> None:
    assert isinstance(error_of(fault_of(MemoryError())), errors.OutOfMemory)


def test_an_unexpected_exception_becomes_compute_failed_with_its_type_and_a_bounded_text() -> None:
    back = error_of(fault_of(ValueError("x" * 10_000)))
    assert isinstance(back, errors.ComputeFailed)
    assert back.detail.startswith("ValueError: x")
    assert len(back.detail) <= 500


@given(st.integers(0, 2**62), st.integers(1, 16), st.sampled_from(["summary", "features", "readout"]))
def test_messages_read_back_equal(identity: int, depth: int, output: Output) -> None:
    run = Run(1, 512, "/folder", depth, (Item(identity, depth, output, ("byte", 3, 0, 1), (3,)),))
    read = decode_in_child(encode(run))
    assert isinstance(read, Run)
    assert read.items[0].id == identity
    assert (read.items[0].depth, read.items[0].output, read.items[0].sizes) == (depth, output, (3,))
    assert decode_in_child(encode(Drop((identity,)))) == Drop((identity,))
    results = Results(1, (Done(identity, (depth, 2, 512)), Done(2, None, Fault("internal", "no"))), (8,), Report(0.1, 5, 5, 1, True, 0, 9))
    assert decode_in_parent(encode(results)) == results


def test_what_only_the_other_side_may_say_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_in_parent(encode(Drop((1,))))
