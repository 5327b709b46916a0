"""A helper process for work that must not stall the event loop: building weights, decoding and encoding.

It calls module-level functions by name with plain data and buffers, one at a time, in order. Started at the first
call, and again when it dies: then the call it was at fails and the others are made again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from dtesn_sidecar.compute.child import COMMAND, Child
from dtesn_sidecar.compute.frames import Bytes, split
from dtesn_sidecar.compute.messages import Answer, Call, ToParent, encode, error_of
from dtesn_sidecar.errors import WorkerLost

Reply: TypeAlias = tuple[Any, list[memoryview]]
Function: TypeAlias = Callable[[Any, list[memoryview]], tuple[Any, list[Bytes]]]

PATIENCE: Final = 60.0  # seconds for one call before the process counts as hung


@dataclass(slots=True)
class _Pending:
    message: Call
    buffers: Sequence[Bytes]
    reply: asyncio.Future[Reply]
    patience: float


class Helper:
    """One helper process of that `nice`ness. `command` starts it (tests pass one that misbehaves)."""

    def __init__(self, *, nice: int, command: Sequence[str] = COMMAND) -> None:
        self._nice, self._command = nice, tuple(command)
        self._child: Child | None = None
        self._pending: dict[int, _Pending] = {}
        self._numbers = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None
        self._reaping: set[asyncio.Future[int]] = set()
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._child is None else self._child.pid

    async def call(self, function: Function, arguments: object, buffers: Sequence[Bytes] = (), *, patience: float = PATIENCE) -> Reply:
        """Call `function(arguments, buffers)` there; its value as plain data, and its buffers.

        `arguments` and the value are what MessagePack carries. `patience` bounds the seconds of the call itself
        before the process is killed. Raises what the function raised (as one of `errors`, or `SpecInvalid`), or
        WorkerLost where the process died or hung in this call, or is stopped.
        """
        if self._stopped:
            raise WorkerLost("the helper process is stopped")
        number = next(self._numbers)
        message = Call(
            number, f"{function.__module__}:{function.__name__}", msgspec.Raw(encode(arguments)), tuple(len(buffer) for buffer in buffers)
        )
        pending = _Pending(message, buffers, asyncio.get_running_loop().create_future(), patience)
        if self._child is None:
            self._child = self._spawn()
        self._child.send(message, buffers)
        self._pending[number] = pending
        if len(self._pending) == 1:
            self._watch()
        return await pending.reply

    async def stop(self) -> None:
        """Kill the process; calls under way fail with WorkerLost. Idempotent."""
        self._stopped = True
        self._bury()
        for pending in self._pending.values():
            if not pending.reply.done():
                pending.reply.set_exception(WorkerLost("the helper process was stopped"))
        self._pending.clear()
        self._watch()
        await asyncio.gather(*self._reaping)

    def _spawn(self) -> Child:
        return Child(self._told, self._lost, nice=self._nice, command=self._command)

    def _told(self, message: ToParent, body: memoryview) -> None:
        if not isinstance(message, Answer):
            return
        pending = self._pending.pop(message.call, None)
        self._watch()
        if pending is None or pending.reply.done():  # the caller went away
            return
        if message.fault is not None:
            pending.reply.set_exception(error_of(message.fault))
        else:
            pending.reply.set_result((msgspec.msgpack.decode(message.value), list(split(body, message.sizes))))

    def _lost(self, reason: str = "died") -> None:
        self._bury()
        if self._pending:
            pending = self._pending.pop(next(iter(self._pending)))
            if not pending.reply.done():
                pending.reply.set_exception(WorkerLost(f"the helper process {reason}"))
        self._pending = {number: pending for number, pending in self._pending.items() if not pending.reply.done()}
        if self._pending:
            self._make_again()
        self._watch()

    def _make_again(self) -> None:
        try:
            self._child = self._spawn()
        except OSError as error:  # no memory or no process left: the next call tries anew
            for pending in self._pending.values():
                pending.reply.set_exception(WorkerLost(f"the helper process cannot be started: {error.strerror}"))
            self._pending.clear()
            return
        for pending in self._pending.values():
            self._child.send(pending.message, pending.buffers)

    def _bury(self) -> None:
        if self._child is not None:
            reaping = asyncio.ensure_future(self._child.gone())
            self._child.kill()
            self._child = None
            self._reaping.add(reaping)
            reaping.add_done_callback(self._reaping.discard)

    def _watch(self) -> None:
        """Give the call at the head its time, from now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            head = next(iter(self._pending.values()))
            self._timer = asyncio.get_running_loop().call_later(head.patience, self._lost, "did not finish in time")
