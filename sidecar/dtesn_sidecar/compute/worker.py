"""The child process: `python -m dtesn_sidecar.compute.worker INBOX OUTBOX NICE` with two inherited pipes.

It computes the batches that the parent sends, or calls the functions that it names (building weights, decoding);
which of the two a child is used for is the parent's choice. It never outlives its parent, ignores SIGTERM and
SIGINT (the parent drains, and ends it by closing the pipe or killing it) and never waits for the parent while it has
work: results that the pipe does not take stay here until it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from dtesn_sidecar.compute.frames import Bytes, FrameReader, FrameWriter, split
from dtesn_sidecar.compute.messages import (
    Answer,
    Call,
    Done,
    Drop,
    Fault,
    Forget,
    Ready,
    Report,
    Results,
    Run,
    Setup,
    ToChild,
    ToParent,
    decode_in_child,
    encode,
    fault_of,
)

if TYPE_CHECKING:
    from dtesn_sidecar.compute.drive import Finished, Reservoirs, Task
    from dtesn_sidecar.model.readout.value import OutputLayer

_PR_SET_PDEATHSIG: Final = 1


class ParentGone(Exception):
    """The parent closed the pipe or died: leave at once."""


class Link:
    """The two pipes of a child: messages in, messages out, neither of which blocks unless asked to wait."""

    def __init__(self, inbox: int, outbox: int) -> None:
        self._inbox, self._outbox = inbox, outbox
        self._reader, self._writer = FrameReader(), FrameWriter()
        self._waiting: deque[tuple[ToChild, memoryview]] = deque()
        os.set_blocking(inbox, False)
        os.set_blocking(outbox, False)

    def send(self, message: ToParent, buffers: Sequence[Bytes] = ()) -> None:
        """Queue a message and write what the pipe takes. Raises ParentGone."""
        self._writer.add(encode(message), buffers)
        self._flush()

    def next(self) -> tuple[ToChild, memoryview]:
        """The next message, waited for, while waiting output is written. Raises ParentGone."""
        while not self._waiting:
            self._flush()
            poll = select.poll()
            poll.register(self._inbox, select.POLLIN)
            if self._writer:
                poll.register(self._outbox, select.POLLOUT)
            poll.poll()
            self._receive()
        return self._waiting.popleft()

    def dropped(self) -> list[int]:
        """Between two slices: write what waits and take the `Drop` messages; others stay for later. Raises ParentGone."""
        self._flush()
        self._receive()
        ids: list[int] = []
        for waiting in list(self._waiting):
            if isinstance(waiting[0], Drop):
                ids.extend(waiting[0].ids)
                self._waiting.remove(waiting)
        return ids

    def _flush(self) -> None:
        try:
            self._writer.flush(self._outbox)
        except BrokenPipeError:
            raise ParentGone from None

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            frames = self._reader.read(self._inbox)
            if frames is None:
                raise ParentGone
            self._waiting.extend((decode_in_child(header), body) for header, body in frames)


class Worker:
    """Serves messages until the parent is gone."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reservoirs: Reservoirs | None = None
        self._readout: OutputLayer | None = None

    def serve(self) -> None:
        """Answer one message after another. Raises ParentGone."""
        self._link.send(Ready())
        while True:
            message, body = self._link.next()
            match message:
                case Run():
                    self._compute(message, body)
                case Call():
                    self._call(message, body)
                case Setup():
                    self._reservoirs, self._readout = _reservoirs(message), _readout(message, body)
                case Forget():
                    if self._reservoirs is not None:
                        self._reservoirs.forget(message.esn_size)
                case Drop():
                    pass  # that run has ended: everything of it was answered

    def _compute(self, run: Run, body: memoryview) -> None:
        from dtesn_sidecar.compute.drive import drive

        try:
            if self._reservoirs is None:
                raise RuntimeError("a run before the model is known")
            reservoir = self._reservoirs.get(run.esn_size, run.layers, Path(run.folder))
            emit = partial(self._results, run.run)
            tasks, dropped = _tasks(run, body), self._link.dropped
            last, report = drive(reservoir, tasks, dropped, emit, _peak_bytes, readout=self._readout, cpu_clock=time.process_time)
        except ParentGone:
            raise
        except Exception as error:  # noqa: BLE001 - the batch failed as a whole: the parent is told, and decides
            self._results(run.run, (), failure=fault_of(error))
        else:
            self._results(run.run, last, report)

    def _results(self, run: int, finished: Finished, report: Report | None = None, failure: Fault | None = None) -> None:
        done: list[Done] = []
        buffers: list[Bytes] = []
        for identity, value in finished:
            if isinstance(value, Exception):
                done.append(Done(identity, None, fault_of(value)))
            else:
                done.append(Done(identity, value.shape))
                buffers.append(np.ascontiguousarray(value).data.cast("B"))
        sizes = tuple(len(buffer) for buffer in buffers)
        self._link.send(Results(run, tuple(done), sizes, report, failure), buffers)

    def _call(self, call: Call, body: memoryview) -> None:
        try:
            module, _, name = call.function.partition(":")
            function: Callable[[Any, list[memoryview]], tuple[Any, list[Bytes]]] = getattr(importlib.import_module(module), name)
            value, buffers = function(msgspec.msgpack.decode(call.arguments), list(split(body, call.sizes)))
            answer = Answer(call.call, msgspec.Raw(encode(value)), tuple(len(buffer) for buffer in buffers))
        except Exception as error:  # noqa: BLE001 - the call failed: the parent raises it where it was called
            answer, buffers = Answer(call.call, msgspec.Raw(encode(None)), (), fault_of(error)), []
        self._link.send(answer, buffers)


def _reservoirs(setup: Setup) -> Reservoirs:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_sidecar.compute.drive import Reservoirs
    from dtesn_sidecar.model.backend import select_backend

    return Reservoirs(msgspec.msgpack.decode(setup.model, type=ModelConfiguration), select_backend("numpy"))


def _readout(setup: Setup, body: memoryview) -> OutputLayer | None:
    if setup.readout is None:
        return None
    from dtesn_sidecar.model.readout.value import OutputLayer

    depth, esn_size, outputs = setup.readout
    numbers = np.frombuffer(body, dtype=np.float64)
    return OutputLayer(depth, esn_size, numbers[:-outputs].reshape(outputs, 2 * depth * esn_size), numbers[-outputs:])


def _tasks(run: Run, body: memoryview) -> list[Task]:
    from dtesn_sidecar.compute.drive import Task
    from dtesn_sidecar.model.trees import Tree

    buffers = split(body, [size for item in run.items for size in item.sizes])
    return [
        Task(item.id, Tree.unpack(item.tree, [next(buffers) for _ in item.sizes]), item.depth, item.output, item.seconds)
        for item in run.items
    ]


def _peak_bytes() -> int:
    """Highest resident memory of this process (`ru_maxrss` would start at the parent's, which exec keeps)."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _prepare(nice: int) -> None:
    """Signals, priority and a tie to the parent's life: the kernel kills this process when the parent is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # not permitted in every sandbox, and only a matter of politeness
        os.nice(nice)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Serve until the parent is gone; exit status 0."""
    inbox, outbox, nice = (int(argument) for argument in arguments)
    _prepare(nice)
    with contextlib.suppress(ParentGone):
        Worker(Link(inbox, outbox)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
