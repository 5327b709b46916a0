"""Length-prefixed frames over a pipe: a small header and raw buffers, without pickle and with bounds.

Bytes in, frames out (and back): what the headers mean is in `messages`, who reads and writes in `child` and
`worker`. A frame is: two little-endian u32 (length of the header, of the body), the header (MessagePack), the body
(the buffers, each padded to 8 bytes so that arrays viewed in place are aligned).
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview

PREFIX: Final = struct.Struct("<II")
MAX_HEADER: Final = 32 << 20
MAX_BODY: Final = 2 << 30
_SCRATCH: Final = 64 << 10
_MAX_VECTORS: Final = 512  # of writev; IOV_MAX is 1024 on Linux
_PADDING: Final = (b"", *(bytes(n) for n in range(1, 8)))


class FrameTooLarge(ValueError):
    """A frame announces more than its bound: the other side is broken."""


def padded(size: int) -> int:
    """`size` rounded up to a multiple of 8."""
    return -(-size // 8) * 8


def split(body: memoryview, sizes: Sequence[int]) -> Iterator[memoryview]:
    """The buffers of a body, in order, as views."""
    at = 0
    for size in sizes:
        yield body[at : at + size]
        at += padded(size)


def encode(header: bytes, buffers: Sequence[Bytes] = ()) -> list[Bytes]:
    """One frame as the buffers to write; nothing large is copied. Raises FrameTooLarge.

    Small buffers (inputs) are joined, since one copy costs less than a vector element each.
    """
    sizes = [len(buffer) for buffer in buffers]  # buffers are bytes or views of bytes: length is size
    body = sum(map(padded, sizes))
    _check(len(header), body)
    parts: list[Bytes] = [PREFIX.pack(len(header), body), header]
    small = not sizes or max(sizes) <= _SCRATCH // 8
    for buffer, size in zip(buffers, sizes, strict=True):
        parts.append(buffer)
        if size % 8:
            parts.append(_PADDING[8 - size % 8])
    return [b"".join(parts)] if small and body <= MAX_HEADER else parts


class FrameReader:
    """Cuts a byte stream into frames. Feed it with `read(fd)`, or without a file: `buffers()`, then `filled(n)`.

    Small frames arrive many at a time in a scratch buffer; a body that is not complete there is read straight
    into memory of its own, so that a large body is copied by the kernel alone (plus at most 64 KiB). Bodies are
    writable views which the receiver owns.
    """

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._have = 0
        self._header: bytes | None = None
        self._body = memoryview(b"")
        self._filled = 0

    def buffers(self) -> list[memoryview]:
        """Where the next bytes of the stream go, in order: first the rest of an open body, then the scratch."""
        free = self._scratch[self._have :]
        return [free] if self._header is None else [self._body[self._filled :], free]

    def filled(self, count: int) -> list[tuple[bytes, memoryview]]:
        """Take note that `count` bytes went into `buffers()`; returns the frames now complete. Raises FrameTooLarge."""
        frames: list[tuple[bytes, memoryview]] = []
        if self._header is not None:
            direct = min(count, len(self._body) - self._filled)
            self._filled += direct
            count -= direct
            if self._filled == len(self._body):
                frames.append((self._header, self._body))
                self._header = None
        self._have += count
        if self._header is None:
            self._cut(frames)
        return frames

    def read(self, fd: int) -> list[tuple[bytes, memoryview]] | None:
        """One read of a non-blocking or ready file: the frames it completed, None at end of file. Raises BlockingIOError."""
        count = os.readv(fd, self.buffers())
        return self.filled(count) if count else None

    def _cut(self, frames: list[tuple[bytes, memoryview]]) -> None:
        at, end, scratch = 0, self._have, self._scratch
        while end - at >= PREFIX.size:
            header_size, body_size = PREFIX.unpack_from(scratch, at)
            _check(header_size, body_size)
            start = at + PREFIX.size
            if PREFIX.size + header_size > len(scratch):  # a header that the scratch cannot hold: let it grow
                self._scratch = scratch = _grown(scratch, at, end, PREFIX.size + header_size)
                at, end = 0, end - at
                break
            if end - start < header_size:
                break
            header = bytes(scratch[start : start + header_size])
            start += header_size
            body = memoryview(bytearray(body_size))
            have = min(end - start, body_size)
            body[:have] = scratch[start : start + have]
            at = start + have
            if have < body_size:
                self._header, self._body, self._filled = header, body, have
                break
            frames.append((header, body))
        if at:
            scratch[: end - at] = bytes(scratch[at:end])
        self._have = end - at


class FrameWriter:
    """Frames waiting to be written to a non-blocking file, in order."""

    def __init__(self) -> None:
        self._waiting: deque[memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, header: bytes, buffers: Sequence[Bytes] = ()) -> None:
        """Queue one frame. The buffers must not change until they are written. Raises FrameTooLarge."""
        self._waiting.extend(memoryview(part) for part in encode(header, buffers) if len(part))

    def flush(self, fd: int) -> bool:
        """Write what the file takes now; True when nothing is left. Raises BrokenPipeError when nobody reads."""
        waiting = self._waiting
        while waiting:
            vectors = [waiting[n] for n in range(min(len(waiting), _MAX_VECTORS))]
            try:
                count = os.writev(fd, vectors)
            except BlockingIOError:
                return False
            while count:
                first = waiting[0]
                if count < len(first):
                    waiting[0] = first[count:]
                    break
                count -= len(first)
                waiting.popleft()
        return True


def _grown(scratch: memoryview, at: int, end: int, size: int) -> memoryview:
    larger = memoryview(bytearray(size + _SCRATCH))
    larger[: end - at] = scratch[at:end]
    return larger


def _check(header: int, body: int) -> None:
    if header > MAX_HEADER or body > MAX_BODY:
        raise FrameTooLarge(f"a frame of {header} + {body} bytes; the bounds are {MAX_HEADER} and {MAX_BODY}")
