"""Messages of gRPC: read as bodies of REST are, and written so that protobuf reads them back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as public

from dtesn_sidecar.errors import DTESNError, InvalidInput, MalformedBody, NotFound
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.oip.outputs import Output
from dtesn_sidecar.oip.requests import Asked
from dtesn_sidecar.oip.rpc import open_inference_pb2 as pb
from dtesn_sidecar.oip.rpc.messages import Form, decode, encode
from dtesn_sidecar.oip.running import Inferred
from dtesn_sidecar.oip.tensors import strings_of_bytes, strings_to_bytes
from dtesn_sidecar.outputs import Timing

FORM = Form(model="dtesn", max_nodes=100)
SERIES = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
Tensor = pb.ModelInferRequest.InferInputTensor


def message(**fields: object) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(**({"model_name": "dtesn"} | fields))


def read(request: pb.ModelInferRequest) -> tuple[Asked, list[Tree]]:
    return decode(request.SerializeToString(), FORM)


def test_raw_and_typed_contents_say_the_same() -> None:
    texts = Tensor(name="TEXT", datatype="BYTES", shape=[2])
    typed_texts = Tensor(name="TEXT", datatype="BYTES", shape=[2], contents=pb.InferTensorContents(bytes_contents=[b"a", b"bc"]))
    series = Tensor(name="SERIES", datatype="FP32", shape=[2, 3, 2])
    typed_series = Tensor(
        name="SERIES", datatype="FP32", shape=[2, 3, 2], contents=pb.InferTensorContents(fp32_contents=SERIES.reshape(-1).tolist())
    )
    for raw, typed in (
        (message(inputs=[texts], raw_input_contents=[strings_to_bytes(["a", "bc"])]), message(inputs=[typed_texts])),
        (message(inputs=[series], raw_input_contents=[SERIES.tobytes()]), message(inputs=[typed_series])),
    ):
        assert read(raw)[0] == read(typed)[0]
        assert all(np.array_equal(one.labels, other.labels) for one, other in zip(read(raw)[1], read(typed)[1], strict=True))


def test_parameters_of_every_type_are_read() -> None:
    request = message(
        id="7",
        inputs=[Tensor(name="TEXT", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[b"a"]))],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="FEATURES")],
    )
    request.parameters["priority"].uint64_param = 3
    request.parameters["timeout"].int64_param = 1_000_000
    request.parameters["binary_data_output"].bool_param = True
    request.parameters["esn_size"].SetInParent()  # named without a value
    assert read(request)[0] == Asked("7", (("FEATURES", True),), True, 2, 1.0, None, None)
    request.parameters["membrane_depth"].string_param = "2"
    with pytest.raises(InvalidInput, match=r"parameters.membrane_depth is '2'"):
        read(request)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (message(), "inputs is of 0 tensors"),
        (message(raw_input_contents=[b""]), "raw_input_contents is of 1 tensors, expected the 0 of inputs"),
        (
            message(inputs=[Tensor(name="TEXT", datatype="BYTES", shape=[1], contents=pb.InferTensorContents())], raw_input_contents=[b""]),
            r"inputs\[0\].contents is given beside",
        ),
        (message(inputs=[Tensor(name="TEXT", datatype="BYTES", shape=[2])]), "bytes_contents is of 0 values, expected the 2"),
        (message(inputs=[Tensor(name="SERIES", datatype="FP32", shape=[1, 1, 1])]), "fp32_contents is of 0 values"),
        (message(inputs=[Tensor(name="SERIES", datatype="FP64", shape=[1, 1, 1])]), "SERIES.datatype is 'FP64', expected FP32"),
        (message(inputs=[Tensor(name="TEXT", datatype="BYTES", shape=[-1])]), r"shape\[0\] is -1"),
        (message(inputs=[Tensor(name="TEXT", datatype="BYTES", shape=[1] * 1000)]), r"shape is of 1000 dimensions, expected at most 8"),
        (message(inputs=[Tensor()] * 17), "inputs is of length 17"),
        (message(id="x" * 1025), "id is of length 1025"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(request_: pb.ModelInferRequest, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(request_)


def test_the_model_is_looked_at_first() -> None:
    with pytest.raises(NotFound, match="no model 'other'"):
        read(message(model_name="other"))
    with pytest.raises(NotFound, match="no version '2'"):
        read(message(model_version="2"))


def test_noise_is_malformed() -> None:
    with pytest.raises(MalformedBody, match="no ModelInferRequest"):
        decode(b"\xff\xff", FORM)


@settings(max_examples=300)
@given(st.data())
def test_a_message_with_any_damage_is_read_or_the_clients_error(data: st.DataObject) -> None:
    texts = Tensor(name="TEXT", datatype="BYTES", shape=[2])
    body = bytearray(message(inputs=[texts], raw_input_contents=[strings_to_bytes(["some", "text"])]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(DTESNError):
        decode(bytes(body), FORM)


@given(st.integers(0, 40_000), st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_the_public_protocol_reads_what_is_written(size: int, texts: list[str]) -> None:
    array = np.arange(size, dtype=np.float32).reshape(1, size)
    outputs = [
        (Output("FEATURES", array.shape, array, {}), True),
        (Output("PREDICTION", (len(texts),), texts, {"labels": '["a"]'}), False),
    ]
    answer = public.ModelInferResponse.FromString(encode(Inferred("7", outputs, Timing(0, 0, 0, 0, 1, "full")), "dtesn"))
    assert (answer.model_name, answer.model_version, answer.id) == ("dtesn", "1", "7")
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("FEATURES", "FP32", [1, size]),
        ("PREDICTION", "BYTES", [len(texts)]),
    ]
    assert answer.outputs[1].parameters["labels"].string_param == '["a"]'
    assert answer.raw_output_contents[0] == array.tobytes()
    assert strings_of_bytes(answer.raw_output_contents[1], len(texts), "x") == [text.encode() for text in texts]


def test_field_numbers_are_those_of_the_public_protocol() -> None:
    """An old client and this server must agree on them for ever."""

    def numbers(message_type: Any) -> dict[str, object]:
        nested = {each.name: numbers(each) for each in message_type.nested_types}
        return {field.name: (field.number, field.type, field.is_repeated) for field in message_type.fields} | nested

    for name, ours in pb.DESCRIPTOR.message_types_by_name.items():
        theirs = numbers(public.DESCRIPTOR.message_types_by_name[name])
        for field, what in numbers(ours).items():
            assert theirs[field] == what, (name, field)
    methods = public.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        assert methods[method.name].input_type.name == method.input_type.name
        assert methods[method.name].output_type.full_name == method.output_type.full_name
