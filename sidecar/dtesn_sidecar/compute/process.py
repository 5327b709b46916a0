"""Starting a child process with its two pipes; some ahead of time, so that children and parent load their libraries at once.

It needs the standard library alone: `serve` starts the children that it will want before it imports its own half. What is said over
the pipes, and what becomes of a child, is `child.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

COMMAND: Final = (sys.executable, "-P", "-m", "dtesn_sidecar.compute.worker")
WORKER_NICE: Final = 5
BUILDER_NICE: Final = 10
PIPE_BYTES: Final = 1 << 20  # holds the results of a whole batch, so that a worker seldom keeps any
_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the BLAS's own variables: whoever sets one means it
_ONE_THREAD: Final = dict.fromkeys((*_THREADS, "OMP_NUM_THREADS"), "1")  # the last one is often set for other programs


@dataclass(frozen=True, slots=True)
class Started:
    """A process and our ends of its pipes, neither of which blocks."""

    process: subprocess.Popen[bytes]
    to: int
    from_: int


def start(command: Sequence[str], nice: int, environment: Mapping[str, str] | None = None) -> Started:
    """Start `command INBOX OUTBOX NICE`, with one BLAS thread or what the environment says of the BLAS. Raises OSError.

    Call it on the thread that lives as long as the child shall: the kernel ends a child when the *thread* that started it ends.
    """
    theirs_in, to = _pipe(ours=1)
    from_, theirs_out = _pipe(ours=0)
    whole = os.environ if environment is None else environment
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module, or the command of a test
            [*command, str(theirs_in), str(theirs_out), str(nice)],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            env={**whole, **_ONE_THREAD, **{name: whole[name] for name in _THREADS if name in whole}},
            start_new_session=True,  # an interrupt typed at a terminal is the parent's affair
        )
    except BaseException:
        os.close(to)
        os.close(from_)
        raise
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    return Started(process, to, from_)


class Spares:
    """Children of `COMMAND` that were started ahead, by their niceness. One that has died meanwhile is found out by who takes it."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Started]] = []

    def prepare(self, nices: Iterable[int]) -> None:
        """Start a child for each."""
        self._waiting.extend((nice, start(COMMAND, nice)) for nice in nices)

    def take(self, command: Sequence[str], nice: int) -> Started | None:
        """One that waits, or None: then start one."""
        for at, (waiting, started) in enumerate(self._waiting):
            if waiting == nice and tuple(command) == COMMAND:
                del self._waiting[at]
                return started
        return None

    def discard(self) -> None:
        """End those that nobody took."""
        waiting, self._waiting = self._waiting, []
        for _, started in waiting:
            started.process.kill()
            os.close(started.to)
            os.close(started.from_)
            started.process.wait()


spares: Final = Spares()  # of this process: whoever starts a child looks here first


def _pipe(ours: int) -> tuple[int, int]:
    ends = os.pipe()
    os.set_blocking(ends[ours], False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # over the user's limit for pipes: the default works, with more turns of the loop
            fcntl.fcntl(ends[ours], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return ends
