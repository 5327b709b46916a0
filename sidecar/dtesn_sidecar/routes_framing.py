"""Where a request ends in what a connection receives, for the plain POSTs that most clients send. Pure.

It is the stricter of two readers: what it is not certain of it leaves to aiohttp's parser, and with it all that follows on that connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dtesn_api.names import HEADER_REQUEST_ID, HEADER_TRACEPARENT

MOST_HEAD: Final = 4096  # bytes; a longer head is aiohttp's to judge
_LOST: Final = -1
_MOST_DIGITS: Final = 9

# Visible ASCII and nothing folded, so that there is one way to read it, and no long way back where it fails. (Possessive quantifiers
# would say so, but before 3.11.5 Python matches nested ones wrongly: gh-106052.)
_HEAD: Final = re.compile(rb"POST (/[0-9A-Za-z_/]{1,64}) HTTP/1\.1((?:\r\n[0-9A-Za-z-]{1,64}: ?[\x21-\x7e][\x20-\x7e]*)+)\r\n\r\n")
_FRAMING: Final = (b"transfer-encoding", b"upgrade")  # with either, the length of the body is not what Content-Length says
_NAMES: Final = {
    b"connection": "Connection",
    b"content-encoding": "Content-Encoding",
    b"content-length": "Content-Length",
    b"content-type": "Content-Type",
    b"expect": "Expect",
    HEADER_TRACEPARENT.lower().encode(): HEADER_TRACEPARENT,
    HEADER_REQUEST_ID.lower().encode(): HEADER_REQUEST_ID,
}
_TELLING: Final = re.compile(rb"\r\n(" + b"|".join((*_NAMES, *_FRAMING)) + rb"): ?([^\r]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plain:
    """A whole request: its path, those of its headers that decide what becomes of it (by their usual names), and its body."""

    path: str
    headers: dict[str, str]
    body: bytes


class Framing:
    """Follows what one connection receives. It must be shown every piece, in order."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = 0  # bytes of the body that are still to come, or _LOST

    def whole(self, piece: bytes) -> Plain | None:
        """The request that this piece is, neither more nor less. None: it is something else."""
        if self._left:
            self._left = max(self._left - len(piece), _LOST) if self._left > 0 else _LOST
            return None
        self._left = _LOST
        head = _HEAD.match(piece, 0, MOST_HEAD)
        if head is None:
            return None
        found = _TELLING.findall(head[2])
        given = {name.lower(): value for name, value in found}
        length = given.get(b"content-length", b"")
        if len(given) < len(found) or not length.isdigit() or len(length) > _MOST_DIGITS or not given.keys().isdisjoint(_FRAMING):
            return None
        self._left = max(int(length) - (len(piece) - head.end()), _LOST)
        if self._left:
            return None
        headers = {_NAMES[name]: value.decode("ascii").rstrip() for name, value in given.items()}
        return Plain(head[1].decode("ascii"), headers, piece[head.end() :])
