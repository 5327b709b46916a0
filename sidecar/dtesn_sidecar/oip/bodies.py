"""The bytes of a REST request: uncompressed within a bound, split into JSON and the tensors behind it, and read. Pure.

What they ask for is `requests`'; where this runs (on the event loop or in the helper process) is `offload`'s.
"""

from __future__ import annotations

import zlib
from typing import Final

from dtesn_api.bodies import BodyMalformed, decode_body
from dtesn_api.inference import HEADER_JSON_LENGTH, InferInput, InferRequest
from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.errors import MalformedBody, RequestTooLarge, UnsupportedMediaType
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.oip.requests import Asked, Reading, Tensor, asked, refuse_unsupported, rows
from dtesn_sidecar.oip.tensors import wrong

ENCODINGS: Final = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
"""Content-Encoding -> what zlib expects. `deflate` is the zlib format (RFC 9110, 8.4.1.2)."""


class Form(Reading, frozen=True, kw_only=True):
    """How a body is to be read: its bound once uncompressed, the length of its JSON (None: all of it), and its compression."""

    max_bytes: int
    json_length: int | None = None
    encoding: str | None = None

    @property
    def may_grow(self) -> bool:
        """Whether it is compressed."""
        return self.encoding is not None


def decode(body: bytes, form: Form) -> tuple[Asked, list[Tree]]:
    """The request and the tree of each of its rows.

    Raises MalformedBody, RequestTooLarge, InvalidInput, ManyRows, or SpecInvalid with every field of the JSON that is wrong.
    """
    if form.encoding is not None:
        body = uncompressed(body, form.encoding, form.max_bytes)
    length = len(body) if form.json_length is None else form.json_length
    if length > len(body):
        raise MalformedBody(f"{HEADER_JSON_LENGTH} is {length}, but the body has {len(body)} bytes")
    try:
        request = decode_body(body[:length], InferRequest)
    except BodyMalformed as error:
        raise MalformedBody(str(error)) from None
    outputs = [(output.name, output.parameters or {}) for output in request.outputs or ()]
    wanted = asked(request.id or "", request.parameters or {}, outputs)
    return wanted, rows(_tensors(request.inputs, memoryview(body)[length:]), form.max_nodes, form.here)


def uncompressed(body: bytes, encoding: str, most: int) -> bytes:
    """The body before its compression, of at most `most` bytes, whatever it would grow to. Raises MalformedBody, RequestTooLarge."""
    stream = zlib.decompressobj(ENCODINGS[encoding])
    try:
        whole = stream.decompress(body, most + 1)
    except zlib.error:
        raise MalformedBody(f"the body is not {encoding}, as its Content-Encoding says") from None
    if len(whole) > most:
        allowed = f"at most {most} bytes (sidecar.maxBodyBytes)"
        raise RequestTooLarge(
            f"the body has more than {most} bytes once uncompressed, but must have {allowed}",
            field="the body",
            value="more, uncompressed",
            expected=allowed,
        )
    if not stream.eof or stream.unused_data:
        raise MalformedBody(f"the body is not one whole {encoding} stream")
    return whole


def encoding_of(header: str | None) -> str | None:
    """The compression that a Content-Encoding names, None for none. Raises UnsupportedMediaType."""
    word = "identity" if header is None else header.strip().lower()
    if word != "identity" and word not in ENCODINGS:
        raise UnsupportedMediaType(f"Content-Encoding is {word[:32]!r}, expected identity, {' or '.join(ENCODINGS)}")
    return None if word == "identity" else word


def json_length_of(header: str | None) -> int | None:
    """The length that the header gives to the JSON, None without one. Raises MalformedBody."""
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) <= 10):
        raise MalformedBody(f"{HEADER_JSON_LENGTH} is {header[:32]!r}, expected a length in bytes")
    return int(header)


def _tensors(inputs: list[InferInput], binary: memoryview) -> list[Tensor]:
    """The inputs with their values. Raises InvalidInput where the bytes behind the JSON are not as the sizes say."""
    found, at = [], 0
    for index, tensor in enumerate(inputs):
        place, parameters = f"inputs[{index}]", tensor.parameters or {}
        refuse_unsupported(parameters, place)
        size = parameters.get("binary_data_size")
        values: list[object] | Bytes
        if size is None:
            if tensor.data is None:
                raise wrong(f"{place}.data", "absent", "the values, or parameters.binary_data_size and the values behind the JSON")
            values = tensor.data
        else:
            if tensor.data is not None:
                raise wrong(f"{place}.data", "given beside parameters.binary_data_size", "one of the two")
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - at:
                left = f"an integer from 0 to the {len(binary) - at} bytes that are left behind the JSON"
                raise wrong(f"{place}.parameters.binary_data_size", repr(size)[:32], left)
            values = binary[at : at + size]
            at += size
        found.append(Tensor(tensor.name, tensor.datatype, tensor.shape, values))
    if at != len(binary):
        raise wrong("the body", f"of {len(binary)} bytes behind its JSON", f"the {at} that binary_data_size of the inputs says")
    return found
