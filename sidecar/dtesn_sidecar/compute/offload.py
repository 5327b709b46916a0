"""Decoding large bodies and encoding large answers: the functions that a helper process runs, and their callers.

A body of megabytes is decoded and its inputs are parsed where the event loop does not wait for it; what comes back
are the options and the trees as buffers. The same functions serve small bodies on the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from dtesn_api import wire
from dtesn_api.bodies import BodyMalformed, decode_body
from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.compute.helper import Helper
from dtesn_sidecar.compute.messages import Fault, error_of, fault_of
from dtesn_sidecar.errors import DTESNError, MalformedBody
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.trees import Tree

LARGE_BODY: Final = 64 << 10  # bytes

R = TypeVar("R", bound=wire.RequestOptions)


def decode(body: bytes, kind: type[R], max_nodes: int) -> R:
    """The request of a body with its input (or each of its inputs) parsed.

    `input_data` becomes a `Tree`; in `inputs` each becomes a Tree or the error of that input alone. Raises
    MalformedBody, SpecInvalid, or for a single input InvalidInput and RequestTooLarge.
    """
    try:
        request = decode_body(body, kind)
    except BodyMalformed as error:
        raise MalformedBody(str(error)) from None
    form = request.input_format
    if isinstance(request, wire.BatchProcessRequest):
        trees = [_parsed(data, form, max_nodes, f"inputs[{index}]") for index, data in enumerate(request.inputs)]
        return msgspec.structs.replace(request, inputs=trees)
    tree = parse_input(getattr(request, "input_data"), form, max_nodes=max_nodes)  # noqa: B009 - RequestOptions has none
    return msgspec.structs.replace(request, input_data=tree)


async def decode_in(helper: Helper, body: bytes, kind: type[R], max_nodes: int) -> R:
    """`decode` in the helper process."""
    (options, packed), buffers = await helper.call(decode_there, (kind.__name__, max_nodes), [body])
    views = iter(buffers)
    trees = [
        error_of(msgspec.convert(fault, Fault)) if fault is not None else Tree.unpack(header, [next(views) for _ in range(parts)])
        for header, parts, fault in packed
    ]
    many = kind is wire.BatchProcessRequest
    return kind(**options, **({"inputs": trees} if many else {"input_data": trees[0]}))


def decode_there(arguments: tuple[str, int], buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """In the helper: `decode`, and the trees packed."""
    name, max_nodes = arguments
    request = decode(bytes(buffers[0]), getattr(wire, name), max_nodes)
    options = {field: getattr(request, field) for field in request.__struct_fields__ if field not in ("input_data", "inputs")}
    trees: list[Tree | Exception] = request.inputs if isinstance(request, wire.BatchProcessRequest) else [getattr(request, "input_data")]  # noqa: B009
    packed: list[Any] = []
    out: list[Bytes] = []
    for tree in trees:
        if isinstance(tree, Tree):
            header, parts = tree.pack()
            packed.append((header, len(parts), None))
            out.extend(parts)
        else:
            packed.append((None, 0, fault_of(tree)))
    return (options, packed), out


async def encode_floats_in(helper: Helper, arrays: Sequence[npt.NDArray[np.float32]]) -> list[bytes]:
    """Each flat array as the text of a JSON array, in the helper process."""
    _, texts = await helper.call(encode_there, None, [array.data.cast("B") for array in arrays])
    return [bytes(text) for text in texts]


def encode_there(_arguments: None, buffers: list[memoryview]) -> tuple[None, list[Bytes]]:
    """In the helper: the shortest float32 text of each buffer."""
    return None, [orjson.dumps(np.frombuffer(buffer, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY) for buffer in buffers]


def _parsed(data: object, form: str, max_nodes: int, field: str) -> Tree | DTESNError:
    try:
        return parse_input(data, form, max_nodes=max_nodes, field=field)
    except DTESNError as error:
        return error
