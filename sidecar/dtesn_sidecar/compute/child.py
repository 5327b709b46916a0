"""A child process as the event loop sees it: started, written to, read from, killed and reaped, never waited for.

What is said is in `messages`; who starts a child again is `pool` and `helper`. The loop is never blocked: both pipes
are non-blocking, and what the child does not take yet waits here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dtesn_sidecar.compute.frames import Bytes, FrameReader, FrameTooLarge, FrameWriter
from dtesn_sidecar.compute.messages import ToChild, ToParent, decode_in_parent, encode
from dtesn_sidecar.compute.process import COMMAND as COMMAND
from dtesn_sidecar.compute.process import spares, start


class Child:
    """One child process. Create it on a running event loop.

    `on_message` takes what it says; `on_exit` is called once when it is gone, however that came about, but for
    `kill`.
    """

    def __init__(
        self,
        on_message: Callable[[ToParent, memoryview], None],
        on_exit: Callable[[], None],
        *,
        nice: int,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_exit = on_message, on_exit
        self._reader, self._writer = FrameReader(), FrameWriter()
        started = (spares.take(command, nice) if environment is None else None) or start(command, nice, environment)
        self._process, self._to, self._from = started.process, started.to, started.from_
        self._open, self._writing = True, False
        self._reaped: asyncio.Future[int] | None = None
        self._loop.add_reader(self._from, self._readable)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False from the moment when the child is seen to be gone, or was killed."""
        return self._open

    def send(self, message: ToChild, buffers: Sequence[Bytes] = ()) -> None:
        """Queue a message and write what the pipe takes now. To a child that is gone it is lost, which `on_exit` told.

        Raises FrameTooLarge, and then nothing was sent.
        """
        if not self._open:
            return
        self._writer.add(encode(message), buffers)
        self._flush()

    def kill(self) -> None:
        """End it at once; `on_exit` is not called. Idempotent."""
        self._close()

    async def gone(self) -> int:
        """Kill it if it is alive and wait until it has been reaped; its exit status (negative: the signal)."""
        self._close()
        assert self._reaped is not None  # noqa: S101 - set by closing
        return await asyncio.shield(self._reaped)

    def _flush(self) -> None:
        try:
            waiting = not self._writer.flush(self._to)
        except BrokenPipeError:  # it is dying: the end of its output says so in a moment, after its last results
            waiting = False
        if waiting is not self._writing:
            self._writing = waiting
            if waiting:
                self._loop.add_writer(self._to, self._flush)
            else:
                self._loop.remove_writer(self._to)

    def _readable(self) -> None:
        try:
            frames = self._reader.read(self._from)
            messages = None if frames is None else [(decode_in_parent(header), body) for header, body in frames]
        except BlockingIOError:
            return
        except (FrameTooLarge, msgspec.MsgspecError, MemoryError):  # what it says cannot be read: of no use any more
            messages = None
        if messages is None:
            self._close()
            self._on_exit()
            return
        for message, body in messages:
            if not self._open:  # killed by what an earlier message led to
                return
            self._on_message(message, body)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._from)
            self._loop.remove_writer(self._to)
            os.close(self._from)
            os.close(self._to)
            self._process.kill()
            self._reaped = asyncio.ensure_future(asyncio.to_thread(self._process.wait))
