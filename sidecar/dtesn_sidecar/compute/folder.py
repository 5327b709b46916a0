"""A private temporary folder that does not outlive its process, even one that was killed.

Whoever makes one first removes those whose makers are gone: a folder is in use while its lock is held, and the kernel
lets go of the lock when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Final

_PREFIX: Final = "dtesn-weights-"
_LOCK: Final = "lock"


class PrivateFolder:
    """A folder of this user alone (mode 0700) under `parent` (default: the system's), until `remove`."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        _sweep(parent)
        made = Path(tempfile.mkdtemp(prefix=".dtesn-", dir=parent))
        lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under its final name only once it is locked, so that no other start takes it for a leftover.
        self.path = made.rename(parent / f"{_PREFIX}{made.name.removeprefix('.dtesn-')}")
        self._finalizer = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def remove(self) -> None:
        """Remove it with all that is in it. Idempotent; done at exit where it was not called."""
        self._finalizer()


def _remove(path: Path, lock: int, maker: int) -> None:
    if os.getpid() == maker:  # not in a fork of it
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or in use (BlockingIOError): not ours to remove
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
