"""One bounded GET, for the providers that ask another server. The only file of `load` that knows aiohttp.

A connection of its own for each poll: nothing is left behind by a source that goes, a rotated certificate counts at once, and
a server that was restarted is simply asked again. What an answer means is the provider's; whatever goes wrong is no data.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import aiohttp

from dtesn_sidecar.load.readings import NoData

QUOTED: Final = 200  # characters of a foreign text that a reason may bear


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the status, the media type without its parameters, and the whole body."""

    status: int
    media: str
    body: bytes


def address(base: str, path: str, query: Mapping[str, str] | None = None) -> str:
    """`path` below the base URL. A query that the base has is kept and goes first; a fragment does not."""
    parts = urlsplit(base)
    query_string = "&".join(part for part in (parts.query, urlencode(query or {}, quote_via=quote)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, query_string, ""))


def quoted(text: str, hidden: tuple[str, ...] = ()) -> str:
    """A foreign text as a reason may bear it: without secrets and control characters, and short."""
    for secret in hidden:
        text = text.replace(secret, "***")
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[: QUOTED + 1])
    return shown if len(shown) <= QUOTED else shown[:QUOTED] + "..."


async def get(
    url: str,
    *,
    seconds: float,
    most_bytes: int,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    hidden: tuple[str, ...] = (),
) -> Reply | NoData:
    """The reply of `url`, or why there is none: at most `seconds` and `most_bytes` of body are spent on it.

    No redirect is followed and no proxy of the environment used, so that `headers` go to the host of `url` alone; no cookies
    are kept and no compression accepted (a small body could be a huge one). `tls` None: the system's authorities.
    `hidden` texts appear in no reason. The query of `url` may be secret too and appears in none.
    """
    try:
        async with asyncio.timeout(seconds), _session() as session:
            request = session.get(
                url,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                allow_redirects=False,
                ssl=tls or True,
                server_hostname=server_name,
            )
            async with request as response:
                return await _read(response, most_bytes, hidden)
    except TimeoutError:
        return NoData(f"no answer within {seconds:g} s")
    except aiohttp.ClientConnectorCertificateError as error:
        return NoData(f"TLS: {quoted(str(error.certificate_error), hidden)}")
    except aiohttp.ClientConnectorDNSError as error:
        return NoData(f"the host {quoted(error.host)} is not found: {error.os_error.strerror}")
    except aiohttp.ClientConnectorError as error:
        known = error.os_error.errno
        why = os.strerror(known) if known is not None and known > 0 else str(error.os_error)
        return NoData(f"no connection to {quoted(error.host)}:{error.port}: {quoted(why, hidden)}")
    except aiohttp.ClientResponseError as error:  # its text bears the URL
        return NoData(f"not an HTTP answer: {quoted(error.message, hidden)}")
    except (aiohttp.InvalidURL, UnicodeError):  # a name that cannot be a host
        return NoData("the URL cannot be asked")
    except (aiohttp.ClientError, OSError) as error:
        return NoData(f"the connection failed: {type(error).__name__}: {quoted(str(error), hidden)}")


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # `get` sets one bound over everything, the name look-up included
        auto_decompress=False,
        trust_env=False,
    )


async def _read(response: aiohttp.ClientResponse, most_bytes: int, hidden: tuple[str, ...]) -> Reply | NoData:
    if 300 <= response.status < 400:
        where = urlsplit(response.headers.get("Location", ""))
        target = quoted(urlunsplit((where.scheme, where.netloc.rpartition("@")[2], where.path, "", "")), hidden)
        return NoData(f"HTTP {response.status} to {target or 'nowhere'}: redirects are not followed, give the URL it leads to")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return NoData(f"HTTP {response.status}, compressed though that was not accepted")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            return NoData(f"HTTP {response.status}, an answer of more than {most_bytes >> 20} MiB")
    return Reply(response.status, response.content_type, bytes(body))
