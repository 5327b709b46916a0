"""Reading request bodies: bounded in type, size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from dtesn_api.names import MEDIA_JSON
from dtesn_sidecar.errors import MalformedBody, RequestTooLarge, UnsupportedMediaType
from dtesn_sidecar.problems import HttpError

BODY_SECONDS: Final = 30.0  # a body that takes longer is not worth a connection


async def json_body(request: web.Request, at_most: int) -> bytes:
    """The body's bytes.

    Raises UnsupportedMediaType, RequestTooLarge (at most `at_most` bytes), MalformedBody where it breaks off, and
    HttpError 408 where it does not arrive within `BODY_SECONDS`.
    """
    check_type(request.headers)
    return await body_bytes(request, at_most)


async def body_bytes(request: web.Request, at_most: int) -> bytes:
    """The body's bytes, whatever they are. Raises as `json_body`, except for their type."""
    if (length := request.content_length) is not None and length > at_most:
        raise _too_large(length, at_most)
    content = request.content
    try:
        if content.is_eof():  # it came with the head, as small ones do
            body = content.read_nowait(-1)
        else:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _gathered(content, at_most)
    except TimeoutError:
        raise HttpError(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except web.RequestPayloadError:
        raise MalformedBody("the body breaks off, or its chunks are malformed") from None
    if len(body) > at_most:
        raise _too_large(len(body), at_most)
    return body


async def expect(request: web.Request) -> None:
    """Answer `Expect: 100-continue`, which asks whether to send the body at all. Raises HTTPExpectationFailed on another."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed
    try:
        check_type(request.headers)
    except UnsupportedMediaType:
        return  # as the handler will say, without the body
    await _go_on(request)


async def expect_any(request: web.Request) -> None:
    """As `expect`, for a body of any type."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await _go_on(request)


async def _go_on(request: web.Request) -> None:
    if request.content_length is None or request.content_length <= request.client_max_size:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the response


async def _gathered(content: asyncio.StreamReader | object, at_most: int) -> bytes:
    chunks, size = [], 0
    while chunk := await content.readany():  # type: ignore[union-attr]
        chunks.append(chunk)
        size += len(chunk)
        if size > at_most:
            raise _too_large(None, at_most)
    return b"".join(chunks)


def check_type(headers: Mapping[str, str]) -> None:
    """JSON as it is, and in UTF-8 where it says. Raises UnsupportedMediaType."""
    if (kind := headers.get("Content-Type")) != MEDIA_JSON:
        media, _, parameters = (kind or "").partition(";")
        if media.strip().lower() != MEDIA_JSON:
            raise UnsupportedMediaType(f"Content-Type must be {MEDIA_JSON}")
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
                raise UnsupportedMediaType("the charset of JSON must be UTF-8")
    if (encoding := headers.get("Content-Encoding")) is not None and encoding.strip().lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding must be identity: a compressed body's size is unknown")


def _too_large(size: int | None, at_most: int) -> RequestTooLarge:
    """Of a body of so many bytes (None: not known, but more than that)."""
    found, allowed = f"more than {at_most} bytes" if size is None else f"{size} bytes", f"at most {at_most} bytes (sidecar.maxBodyBytes)"
    return RequestTooLarge(f"the body has {found}, but must have {allowed}", field="the body", value=found, expected=allowed)
