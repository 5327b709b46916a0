"""Messages of gRPC to what a request asks for, and answers to messages. Pure; `decode` may run in the helper process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.message import DecodeError, Message

from dtesn_api.inference import BYTES, FP32, MODEL_VERSION, ModelMetadata, ServerMetadata
from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.errors import MalformedBody
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.oip.requests import Asked, Reading, Tensor, asked, known, refuse_unsupported, rows
from dtesn_sidecar.oip.rpc import open_inference_pb2 as pb
from dtesn_sidecar.oip.tensors import elements, raw_bytes, strings_to_bytes, wrong

if TYPE_CHECKING:
    from dtesn_sidecar.oip.running import Inferred

# The bounds that REST's bodies have too (`dtesn_api.inference`).
_MOST_TENSORS: Final = 16
_MOST_AXES: Final = 8
_MOST_ID: Final = 1024

_RAW_OUTPUT_TAG: Final = bytes([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | 2])  # of a field with its length before it


class Form(Reading, frozen=True, kw_only=True):
    """How a message is to be read: the model that is served."""

    model: str


def decode(body: bytes, form: Form) -> tuple[Asked, list[Tree]]:
    """The request of a ModelInferRequest and the tree of each of its rows.

    Raises MalformedBody, NotFound, InvalidInput, RequestTooLarge, ManyRows.
    """
    try:
        message = pb.ModelInferRequest.FromString(body)
    except DecodeError:
        raise MalformedBody("the message is no ModelInferRequest") from None
    known(form.model, message.model_name, message.model_version)
    for field, count, most in (
        ("id", len(message.id), _MOST_ID),
        ("inputs", len(message.inputs), _MOST_TENSORS),
        ("outputs", len(message.outputs), _MOST_TENSORS),
    ):
        if count > most:
            raise wrong(field, f"of length {count}", f"at most {most}")
    outputs = [(output.name, _parameters(output.parameters)) for output in message.outputs]
    return asked(message.id, _parameters(message.parameters), outputs), rows(_tensors(message), form.max_nodes, form.here)


def encode(answer: Inferred, model: str) -> bytes:
    """The ModelInferResponse. Tensors go as raw_output_contents, joined to the rest without a further copy: bytes of protobuf add up."""
    message = pb.ModelInferResponse(model_name=model, model_version=MODEL_VERSION, id=answer.id)
    parts: list[Bytes] = []
    for output, _ in answer.outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        for name, value in output.parameters.items():
            tensor.parameters[name].string_param = value
        raw = raw_bytes(output.values)
        parts += [_RAW_OUTPUT_TAG, _varint(len(raw)), raw]
    return b"".join([written(message), *parts])


def written(message: Message) -> bytes:
    """The bytes of a message."""
    data: bytes = message.SerializeToString()
    return data


def server_message(metadata: ServerMetadata) -> pb.ServerMetadataResponse:
    """The server's metadata."""
    return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version, extensions=metadata.extensions)


def model_message(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    """The model's metadata."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=metadata.name,
        versions=metadata.versions,
        platform=metadata.platform,
        inputs=[tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in metadata.inputs],
        outputs=[tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in metadata.outputs],
    )


def _tensors(message: pb.ModelInferRequest) -> list[Tensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise wrong("raw_input_contents", f"of {len(raw)} tensors", f"the {len(message.inputs)} of inputs, or none of them")
    found = []
    for index, tensor in enumerate(message.inputs):
        place = f"inputs[{index}]"
        refuse_unsupported(_parameters(tensor.parameters), place)
        if len(tensor.shape) > _MOST_AXES:
            raise wrong(f"{place}.shape", f"of {len(tensor.shape)} dimensions", f"at most {_MOST_AXES}")
        shape = list(tensor.shape)
        if raw and tensor.HasField("contents"):
            raise wrong(f"{place}.contents", "given beside raw_input_contents", "one of the two")
        values = raw[index] if raw else _contents(tensor, shape, place)
        found.append(Tensor(tensor.name, tensor.datatype, shape, values))
    return found


def _contents(tensor: pb.ModelInferRequest.InferInputTensor, shape: list[int], place: str) -> Bytes:
    """The typed values of a tensor as raw ones. Of another type than ours they are empty, and its datatype is refused later."""
    values: Any
    if tensor.datatype == BYTES:
        field, values = "bytes_contents", tensor.contents.bytes_contents
    elif tensor.datatype == FP32:
        field, values = "fp32_contents", tensor.contents.fp32_contents
    else:
        return b""
    count = elements(shape, place)
    if len(values) != count:
        raise wrong(f"{place}.contents.{field}", f"of {len(values)} values", f"the {count} of shape {shape}")
    if tensor.datatype == BYTES:
        return strings_to_bytes(values)
    return np.fromiter(values, dtype="<f4", count=count).tobytes()


def _parameters(given: Mapping[str, Any]) -> dict[str, object]:
    """The parameters as plain values; one without a value is None."""
    found: dict[str, object] = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found


def _varint(value: int) -> bytes:
    """An unsigned integer in protobuf's base 128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
