"""The end of a listening socket that resets nobody.

Closing one resets every connection that the kernel has completed and nobody has accepted yet, although the client has its
connection and may have sent its request. So newcomers are kept out first, those under way are accepted, and then it closes:
every client is either let in or refused as it connects. What is served on a connection is not known here.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final

_HANDSHAKE_SECONDS: Final = 0.1
"""For the third packet of handshakes under way; longer than a round trip within a cluster."""

_ACCEPT_SECONDS: Final = 2.0
"""At most, for accepting what is there. Where newcomers cannot be kept out, they may come for ever."""

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; Python has no name for it
_DROP_SYN: Final = (  # (code, jump if true, jump if false, operand) of classic BPF, as in linux/filter.h
    (0x30, 0, 0, 13),  # A = the byte of flags of the TCP header
    (0x54, 0, 0, 0x12),  # A &= SYN | ACK
    (0x15, 0, 1, 0x02),  # SYN alone begins a connection:
    (0x06, 0, 0, 0),  # it is dropped. The client's kernel tries again a second later, and is refused.
    (0x06, 0, 0, 0xFFFFFFFF),  # all else passes
)


async def stop_listening(listener: asyncio.Server) -> None:
    """Close it once every connection that a client may believe to have is accepted."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        sockets = [stack.enter_context(each.dup()) for each in listener.sockets]
        for each in sockets:
            _keep_newcomers_out(each)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        until = loop.time() + _ACCEPT_SECONDS
        while _waiting(sockets) and loop.time() < until:  # noqa: ASYNC110 - the loop itself accepts, in each turn what is there
            await asyncio.sleep(0)
    listener.close()


def _keep_newcomers_out(listening: socket.socket) -> None:
    if sys.platform != "linux":
        return
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _DROP_SYN)
    held = ctypes.create_string_buffer(code, len(code))
    with suppress(OSError):  # a kernel without filters: then the moment between the last look and the close remains
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(held)))


def _waiting(sockets: Sequence[socket.socket]) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    for each in sockets:
        poll.register(each, select.POLLIN)
    return bool(poll.poll(0))
