"""What the container may use: CPUs and memory, from cgroup v2 or v1, and from /proc where nothing bounds it.

A leaf of pure readers: the folders are arguments, so that tests hand in their own. How the figures are used
(number of workers, byte cap, load) is the callers' business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
MOUNT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # v1 says "no limit" as the largest multiple of the page size


def folders(controller: str, *, proc: Path = PROC, mount: Path = MOUNT) -> list[Path]:
    """Folders of this process for a controller (`cpu`, `memory`), its own first, then its ancestors up to the mount.

    Every ancestor bounds too. In a container with a cgroup namespace of its own the list is the mount alone.
    Version 1 has a tree per controller; version 2 one for all. Empty where there are no cgroups.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    unified: Path | None = None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            root = mount / controller
            return [folder for folder in _upwards(root, path) if folder.is_dir()]
        if number == "0" and not controllers and (mount / "cgroup.controllers").exists():
            unified = Path(path)
    return [] if unified is None else [folder for folder in _upwards(mount, str(unified)) if folder.is_dir()]


def cpus(*, proc: Path = PROC, mount: Path = MOUNT) -> float:
    """CPUs that this process may use: the tightest quota of its cgroups, at most its affinity."""
    limit = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    for folder in folders("cpu", proc=proc, mount=mount):
        quota = _quota(folder)
        if quota is not None:
            limit = min(limit, quota)
    return limit


def whole_cpus(*, proc: Path = PROC, mount: Path = MOUNT) -> int:
    """`cpus` rounded down, at least one: the number of compute workers."""
    return max(1, int(cpus(proc=proc, mount=mount)))


def memory_free(*, proc: Path = PROC, mount: Path = MOUNT) -> int | None:
    """Bytes left until the tightest memory limit (or the machine's MemAvailable, if that is less); None: not known.

    Resident is usage without inactive file pages, the working set by which a kubelet evicts.
    """
    free = [available] if (available := _available(proc)) is not None else []
    for folder in folders("memory", proc=proc, mount=mount):
        limit = _memory_limit(folder)
        if limit is not None and (used := _working_set(folder)) is not None:
            free.append(max(0, limit - used))
    return min(free) if free else None


def memory_share(*, proc: Path = PROC, mount: Path = MOUNT) -> float | None:
    """Share in [0, 1] of the memory in use, of whichever bound is the fullest: a cgroup's or the machine's. None: not known."""
    shares = []
    total, available = _meminfo(proc, "MemTotal"), _available(proc)
    if total and available is not None:
        shares.append(1.0 - available / total)
    for folder in folders("memory", proc=proc, mount=mount):
        limit = _memory_limit(folder)
        if limit and (used := _working_set(folder)) is not None:
            shares.append(used / limit)
    return min(1.0, max(0.0, *shares)) if shares else None


def resident_bytes(pids: Iterable[int], *, proc: Path = PROC) -> int | None:
    """Resident memory of processes together, without those that have ended. None: not known of any."""
    found = [size for pid in pids if (size := _resident(proc / str(pid))) is not None]
    return sum(found) if found else None


def _resident(folder: Path) -> int | None:
    text = _read(folder / "statm")
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _upwards(root: Path, path: str) -> Iterator[Path]:
    inner = root / path.lstrip("/")
    while inner != root:
        yield inner
        inner = inner.parent
    yield root


def _quota(folder: Path) -> float | None:
    if (text := _read(folder / "cpu.max")) is not None:
        quota, period = text.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return None if not quota_us or not period_us or quota_us < 0 else quota_us / period_us


def _memory_limit(folder: Path) -> int | None:
    limit = _number(folder / "memory.max")
    if limit is None:
        limit = _number(folder / "memory.limit_in_bytes")
    return None if limit is None or limit >= _UNLIMITED else limit


def _working_set(folder: Path) -> int | None:
    used, key = _number(folder / "memory.current"), "inactive_file"
    if used is None:
        used, key = _number(folder / "memory.usage_in_bytes"), "total_inactive_file"
    if used is None:
        return None
    for line in (_read(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return max(0, used - int(value))
    return used


def _available(proc: Path) -> int | None:
    return _meminfo(proc, "MemAvailable")


def _meminfo(proc: Path, name: str) -> int | None:
    for line in (_read(proc / "meminfo") or "").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:  # not this version of cgroups, not mounted, or not ours to read: the same as not there
        return None
