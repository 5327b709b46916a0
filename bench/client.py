"""A lean HTTP/1.1 client: one protocol object per keep-alive connection, requests as prepared bytes. Knows only what the
load generator needs: a status, the head, a body whose length the head says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import cast

REFUSED, BROKEN = -1, -2  # in place of a status: not accepted; closed without an answer


def prepare(path: str, body: object, host: str = "localhost") -> bytes:
    """A POST of JSON, ready to be written."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Answer:
    """What came back: a status (or REFUSED, BROKEN), the head and the body."""

    __slots__ = ("body", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        self.status, self.head, self.body = status, head, body


Done = Callable[[Answer], None]


class Connection(asyncio.Protocol):
    """One connection; one request at a time. `reusable` says whether it may carry another one."""

    __slots__ = ("_buffer", "_done", "_head", "_length", "_transport", "reusable")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""
        self._length = -1
        self._done: Done | None = None
        self._transport: asyncio.Transport | None = None
        self.reusable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.reusable = True

    def send(self, request: bytes, done: Done) -> None:
        """Write a request; `done` is called once."""
        assert self._transport is not None
        assert self._done is None
        self._done = done
        self._transport.write(request)

    def abort(self) -> None:
        """Go away at once, in the middle of whatever is under way; nothing is reported."""
        self._done, self.reusable = None, False
        if self._transport is not None:
            self._transport.abort()

    def abort_with(self, status: int) -> None:
        """Give up and report that."""
        done = self._done
        self.abort()
        if done is not None:
            done(Answer(status, b"", b""))

    def close(self) -> None:
        """Go away."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed from the other end: an answer that had not come will not."""
        self.reusable = False
        done, self._done = self._done, None
        if done is not None:
            done(Answer(BROKEN, b"", b""))

    def data_received(self, data: bytes) -> None:
        """Take what came; report the answer when it is whole."""
        buffer = self._buffer
        buffer += data
        if self._length == -1:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(buffer[:end]).lower()
            del buffer[: end + 4]
            at = self._head.find(b"\r\ncontent-length:")
            if at < 0:  # the answers measured here all say their length; anything else is a broken one
                self.abort_with(BROKEN)
                return
            self._length = int(self._head[at + 17 :].split(b"\r\n", 1)[0])
        if len(buffer) < self._length:
            return
        body = bytes(buffer[: self._length])
        buffer.clear()
        self._length = -1
        if b"\r\nconnection: close" in self._head:
            self.close()
        done, self._done = self._done, None
        if done is not None:
            done(Answer(int(self._head[9:12]), self._head, body))


async def connect(port: int) -> Connection | None:
    """A new connection, or None where it is not accepted."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    except OSError:
        return None
    return connection
