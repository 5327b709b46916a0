"""One HTTP request and its answer, bounded in size: the bytes of a success, or an exception of `errors.py`. Never tries again."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Final

import aiohttp

from dtesn_api.names import HEADER_RETRY_AFTER, MEDIA_JSON
from dtesn_sidecar.client.errors import BadAnswer, ConnectionFailed, server_error

_MOST_OF_AN_ERROR: Final = 1 << 20
_LARGE: Final = 1 << 20
_KEEP_ALIVE: Final = 30.0  # seconds; the sidecar keeps idle connections for longer, so that they are seldom closed under a request


def session(connections: int, connect_timeout: float, headers: Mapping[str, str] | None, ssl: SSLContext | None) -> aiohttp.ClientSession:
    """The connections of one client."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=_KEEP_ALIVE, ssl=True if ssl is None else ssl),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # the sidecar never compresses, and a compressed answer's size is not known
    )


@asynccontextmanager
async def request(
    http: aiohttp.ClientSession, method: str, url: str, body: bytes | None, *, accept: str = MEDIA_JSON, statuses: tuple[int, ...] = (200,)
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A response whose status is one of `statuses`. Leaving before its end closes its connection.

    Raises ServerError for another status, and ConnectionFailed.
    """
    headers = {"Accept": accept} | ({} if body is None else {"Content-Type": MEDIA_JSON})
    try:
        data = io.BytesIO(body) if body is not None and len(body) >= _LARGE else body  # written piece by piece
        async with http.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            if response.status not in statuses:
                if response.status < 400:
                    raise BadAnswer(f"{url} answered {response.status}, which this API never does")
                raise server_error(
                    response.status, await read(response, _MOST_OF_AN_ERROR, whole=False), response.headers.get(HEADER_RETRY_AFTER)
                )
            yield response
    except aiohttp.ClientSSLError as error:
        raise ConnectionFailed(f"{url}: {error}", sent=False, final=True) from error  # a certificate does not get better
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise ConnectionFailed(f"{url}: {error}", sent=False) from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
            raise  # the caller's own deadline
        raise ConnectionFailed(f"{url}: {type(error).__name__}: {error}", sent=True) from error


async def read(response: aiohttp.ClientResponse, most: int, *, whole: bool = True) -> bytes:
    """The body. Beyond `most` bytes: BadAnswer, or with `whole=False` its beginning."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > most:
            if whole:
                raise BadAnswer(f"the answer is larger than {most} bytes")
            break
    return bytes(data[:most])


async def lines(response: aiohttp.ClientResponse, most: int) -> AsyncGenerator[bytes, None]:
    """The lines of a body, without their ends; BadAnswer where one is longer than `most` bytes."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *ended, rest = rest.split(b"\n")
            for line in ended:
                yield bytes(line)
        if len(rest) > most:
            raise BadAnswer(f"a line of the answer is longer than {most} bytes")
    if rest:
        raise BadAnswer("the answer ends in the middle of a line")
