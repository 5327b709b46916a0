"""The bodies and names of the Open Inference Protocol v2 (REST): what its clients send and what they are answered.

Names are the protocol's. Unknown fields are ignored, since clients add their own; unknown parameters of a request are
refused where it is read, since they ask for something. Tensors behind the JSON (the binary tensor extension) and those of
gRPC are read in the sidecar.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

HEADER_JSON_LENGTH: Final = "Inference-Header-Content-Length"
MEDIA_BINARY: Final = "application/octet-stream"
SERVER_NAME: Final = "dtesn-batcher"
PLATFORM: Final = "dtesn"
MODEL_VERSION: Final = "1"
EXTENSIONS: Final = ("binary_tensor_data", "parameters", "schedule_policy")

INPUT_TEXT: Final = "TEXT"
INPUT_SERIES: Final = "SERIES"
OUTPUT_FEATURES: Final = "FEATURES"
OUTPUT_PREDICTION: Final = "PREDICTION"
OUTPUT_SCORES: Final = "SCORES"
BYTES: Final = "BYTES"
FP32: Final = "FP32"

MAX_ROWS: Final = 65_536
"""Rows of one request, each an item of its own."""

Parameters = dict[str, Any]
Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Shape = Annotated[list[Dimension], Meta(max_length=8)]
Id = Annotated[str, Meta(max_length=1024)]
Name = Annotated[str, Meta(max_length=256)]


class InferInput(Struct, frozen=True, kw_only=True):
    """One input tensor."""

    name: Literal["TEXT", "SERIES"]
    shape: Annotated[Shape, Meta(description="TEXT: [n] or [n, 1]. SERIES: [n, steps, channels].")]
    datatype: Annotated[Literal["BYTES", "FP32"], Meta(description="TEXT: BYTES. SERIES: FP32.")]
    parameters: Annotated[Parameters | None, Meta(description="binary_data_size: bytes of this tensor behind the JSON.")] = None
    data: Annotated[list[Any] | None, Meta(description="The values, flat or nested as the shape; absent = behind the JSON.")] = None


class InferRequestedOutput(Struct, frozen=True, kw_only=True):
    """One output that is asked for."""

    name: Annotated[Name, Meta(description="FEATURES; with a readout also PREDICTION and, of a classifier, SCORES.")]
    parameters: Annotated[Parameters | None, Meta(description="binary_data: true = behind the JSON.")] = None


class InferRequest(Struct, frozen=True, kw_only=True):
    """Body of `POST /v2/models/{model}/infer`. Each row of the input is an item of its own in the batches."""

    id: Annotated[Id | None, Meta(description="Echoed.")] = None
    parameters: Annotated[
        Parameters | None,
        Meta(
            description="priority: 1 (highest) to 3, 0 = default; timeout: microseconds, 0 = default; membrane_depth; esn_size; "
            "binary_data_output: true = all outputs behind the JSON."
        ),
    ] = None
    inputs: Annotated[list[InferInput], Meta(min_length=1, max_length=16, description="Exactly one tensor.")]
    outputs: Annotated[
        Annotated[list[InferRequestedOutput], Meta(max_length=16)] | None, Meta(description="Absent = all that there are.")
    ] = None


class InferOutput(Struct, frozen=True, kw_only=True):
    """One output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Annotated[
        Parameters | UnsetType, Meta(description="binary_data_size where the tensor is behind the JSON; labels of SCORES, as a JSON array.")
    ] = UNSET
    data: Annotated[list[Any] | UnsetType, Meta(description="The values, flat.")] = UNSET


class InferResponse(Struct, frozen=True, kw_only=True):
    """Answer of `infer`; a JSON object, with binary tensors behind it where they were asked for."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    outputs: list[InferOutput]


class TensorMetadata(Struct, frozen=True, kw_only=True):
    """A tensor of the model. -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """Body of `GET /v2/models/{model}`. Outputs have the shape of requests that name no membrane_depth and no esn_size."""

    name: str
    versions: list[str]
    platform: str
    inputs: Annotated[list[TensorMetadata], Meta(description="A request has one of them.")]
    outputs: list[TensorMetadata]


class ServerMetadata(Struct, frozen=True, kw_only=True):
    """Body of `GET /v2`."""

    name: str
    version: str
    extensions: list[str]


class Live(Struct, frozen=True, kw_only=True):
    """Body of `GET /v2/health/live`, whatever its status code."""

    live: bool


class Ready(Struct, frozen=True, kw_only=True):
    """Body of `GET /v2/health/ready`, whatever its status code."""

    ready: bool


class ModelReady(Struct, frozen=True, kw_only=True):
    """Body of `GET /v2/models/{model}/ready`, whatever its status code."""

    name: str
    ready: bool


class InferenceError(Struct, frozen=True, kw_only=True):
    """Body of every error under `/v2`."""

    error: str
