"""The file by which `dtesn-sidecar drain` finds the server of its container.

One file per port, in a folder of this user alone. The server holds a lock on it as long as it lives, so a file that a
killed server left behind, whose process id may be another's by now, is not mistaken for a server.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO


def folder(environ: Mapping[str, str]) -> Path:
    """Where the files are: in `$XDG_RUNTIME_DIR`, else below the folder for temporary files."""
    base = environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "dtesn-sidecar" if base else Path(tempfile.gettempdir()) / f"dtesn-sidecar-{os.getuid()}"


def write(where: Path, port: int) -> IO[str]:
    """Write this process's id and lock the file until it is closed.

    Raises OSError where it cannot be written, or the folder is not this user's alone.
    """
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(where)
    descriptor = os.open(_path(where, port), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    stream = os.fdopen(descriptor, "w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
    except BaseException:
        stream.close()
        raise
    return stream


def server(where: Path, port: int) -> int | None:
    """Process id of the server that listens on the port, or None where none runs. Raises OSError where that cannot be read."""
    try:
        _check(where)
        return _owner(_path(where, port))
    except FileNotFoundError:
        return None


def servers(where: Path) -> dict[int, int]:
    """Process id of every server that runs, by its port. Raises OSError where that cannot be read."""
    try:
        _check(where)
        files = sorted(where.glob("*.pid"))
    except FileNotFoundError:
        return {}
    owners = {int(file.stem): _owner(file) for file in files if file.stem.isdecimal()}
    return {port: owner for port, owner in owners.items() if owner is not None}


def _owner(file: Path) -> int | None:
    """Who holds the lock."""
    with file.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(stream.read().strip() or 0) or None
    return None


def _path(where: Path, port: int) -> Path:
    return where / f"{port}.pid"


def _check(where: Path) -> None:
    found = os.lstat(where)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{where} is not a folder that this user alone can write to")
