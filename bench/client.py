"""A lean HTTP/1.1 client: one protocol object per keep-alive connection, requests as prepared bytes. Knows only what the
load generator needs: a status, the head, a body whose length the head says. What it costs is taken from the server beside it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import cast

PENDING, REFUSED, BROKEN = 0, -1, -2  # in place of a status: no answer yet; not accepted; closed without an answer


def prepare(path: str, body: object, host: str = "localhost") -> bytes:
    """A POST of JSON, ready to be written."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header, or None. Names in the usual spelling are found at once, others are looked for."""
    at = head.find(b"\r\n" + name + b": ")
    if at < 0:
        at = head.lower().find(b"\r\n" + name.lower() + b":")
        if at < 0:
            return None
    end = head.find(b"\r\n", at + 2)
    return head[at + len(name) + 3 : end if end >= 0 else len(head)].strip()


class Shot:
    """One request: which text, when it was meant to go, when it went, when the answer came, and what it was.

    `body` is kept where answers are compared, `retry_after` says whether the answer had that header.
    """

    __slots__ = ("body", "due", "index", "retry_after", "returned", "sent", "status")

    def __init__(self, index: int, due: float) -> None:
        self.index, self.due = index, due
        self.sent = self.returned = 0.0
        self.status = PENDING
        self.retry_after = False
        self.body = b""


Done = Callable[["Connection", Shot], None]


class Connection(asyncio.Protocol):
    """One connection; one request at a time. `done` is called once for each. `reusable` says whether it may carry another one."""

    __slots__ = ("_buffer", "_done", "_keep", "_shot", "_transport", "_whole", "reusable")

    def __init__(self, done: Done, *, keep_bodies: bool = False) -> None:
        self._done, self._keep = done, keep_bodies
        self._buffer = b""
        self._whole = 0  # bytes of an answer that came in pieces
        self._shot: Shot | None = None
        self._transport: asyncio.Transport | None = None
        self.reusable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.reusable = True

    def send(self, request: bytes, shot: Shot) -> None:
        """Write a request."""
        assert self._transport is not None
        assert self._shot is None
        self._shot = shot
        self._transport.write(request)

    def abort(self) -> None:
        """Go away at once, in the middle of whatever is under way; nothing is reported."""
        self._shot, self.reusable = None, False
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Go away."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed from the other end: an answer that had not come will not."""
        self.reusable = False
        self._end(BROKEN)

    def data_received(self, data: bytes) -> None:
        """Take what came; report the answer when it is whole."""
        if self._buffer:
            data = self._buffer = self._buffer + data
            if len(data) < self._whole:
                return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            return
        head = data[:end]
        length = header(head, b"Content-Length")
        if length is None:  # the answers measured here all say their length; anything else is a broken one
            self.close()
            self._end(BROKEN)
            return
        whole = end + 4 + int(length)
        if len(data) < whole:
            self._buffer, self._whole = data, whole
            return
        self._buffer, self._whole = b"", 0
        if header(head, b"Connection") == b"close":
            self.close()
        status, shot = int(data[9:12]), self._shot
        if shot is not None:
            if status != 200:
                shot.retry_after = header(head, b"Retry-After") is not None
            elif self._keep:
                shot.body = data[end + 4 :]
        self._end(status)

    def _end(self, status: int) -> None:
        shot, self._shot = self._shot, None
        if shot is not None:
            shot.status = status
            self._done(self, shot)


async def connect(port: int, done: Done, *, keep_bodies: bool = False) -> Connection | None:
    """A new connection, or None where it is not accepted."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(lambda: Connection(done, keep_bodies=keep_bodies), "127.0.0.1", port)
    except OSError:
        return None
    return connection
