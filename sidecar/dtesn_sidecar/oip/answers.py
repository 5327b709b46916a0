"""An answer as the body of REST: JSON, and behind it the tensors that are to be binary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from aiohttp.payload import Payload
from msgspec import UNSET

from dtesn_api.inference import HEADER_JSON_LENGTH, MEDIA_BINARY, MODEL_VERSION, InferOutput, InferResponse
from dtesn_api.names import MEDIA_JSON
from dtesn_sidecar.compute import offload
from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.oip.tensors import raw_bytes
from dtesn_sidecar.outputs import LARGE_FLOATS, shortest

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from dtesn_sidecar.compute.helper import Helper
    from dtesn_sidecar.oip.outputs import Output
    from dtesn_sidecar.oip.running import Inferred

_PIECE: Final = 256 << 10  # bytes that are handed to the transport at once


async def body_of(answer: Inferred, model: str, helper: Helper) -> tuple[Payload, dict[str, str]]:
    """The body and its headers. More than 16,384 numbers of JSON are written by the helper process."""
    parts: list[Bytes] = []
    outputs = []
    for output, binary in answer.outputs:
        parameters = dict(output.parameters)
        data: Any = UNSET
        if binary:
            raw = raw_bytes(output.values)
            parts.append(raw)
            parameters["binary_data_size"] = len(raw)
        else:
            data = await _json(output, helper)
        outputs.append(
            InferOutput(name=output.name, datatype=output.datatype, shape=list(output.shape), parameters=parameters or UNSET, data=data)
        )
    document = msgspec.json.encode(InferResponse(model_name=model, model_version=MODEL_VERSION, id=answer.id or UNSET, outputs=outputs))
    if not parts:
        return _Parts([document], MEDIA_JSON), {}
    return _Parts([document, *parts], MEDIA_BINARY), {HEADER_JSON_LENGTH: str(len(document))}


async def _json(output: Output, helper: Helper) -> object:
    if not isinstance(output.values, np.ndarray):
        return output.values
    flat = output.values.reshape(-1)
    if flat.size <= LARGE_FLOATS:
        return msgspec.Raw(shortest(flat))
    return msgspec.Raw((await offload.encode_floats_in(helper, [flat]))[0])


class _Parts(Payload):
    """Buffers that are sent one after the other, without joining them."""

    def __init__(self, parts: list[Bytes], content_type: str) -> None:
        super().__init__(parts, content_type=content_type)
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The text, of an answer without binary tensors."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the buffers."""
        for part in self._value:
            for at in range(0, len(part), _PIECE):
                await writer.write(part[at : at + _PIECE])
