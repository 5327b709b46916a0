"""Following the file while the server runs: what changed, what of it can be taken at once, and when to look.

A mounted ConfigMap is swapped by a symlink, an editor renames a new file over the old: either way the path then leads
to another inode, which polling sees without any dependency and on any file system.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dtesn_api.problems import SpecInvalid
from dtesn_api.reading import Section, read
from dtesn_api.schema import fields, to_wire
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_sidecar.config.sources import Configuration, load_configuration

POLL_SECONDS = 0.25

Fingerprint = tuple[int, int, int, int, int] | None  # of the file behind the path; None: there is none
_NEVER: Fingerprint = (-1, -1, -1, -1, -1)


@dataclass(frozen=True, slots=True)
class FileState:
    """What is known of the file: the version dealt with, and the one at the last look."""

    handled: Fingerprint = _NEVER
    last: Fingerprint = _NEVER


def look(state: FileState, now: Fingerprint) -> tuple[FileState, bool]:
    """The state after a look at the file, and whether to read it now.

    A new version is read at its second look: one that is being written in place may be valid at its half.
    """
    if now == state.handled or now != state.last:
        return replace(state, last=now), False
    return FileState(handled=now, last=now), True


def fingerprint(file: Path) -> Fingerprint:
    """Device, inode, size and times of the file that the path, through any symlinks, leads to."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def changes(old: DTESNBatcherSpec, new: DTESNBatcherSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Dotted wire paths of what differs: (what can be taken at once, what takes effect at the next start).

    What only the operator reads is in neither.
    """
    found: dict[str, list[str]] = {"live": [], "restart": [], "operator": []}
    _compare(old, new, "", "", found)
    return tuple(found["live"]), tuple(found["restart"])


def _compare(old: Section, new: Section, path: str, applies: str, found: dict[str, list[str]]) -> None:
    for field in fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        here = f"{path}.{field.wire}" if path else field.wire
        acts = field.extra.get("applies", applies)
        if isinstance(before, Section) and isinstance(after, Section):
            _compare(before, after, here, acts, found)
        elif before != after:
            found[acts].append(here)


def adopt(running: Configuration, wanted: Configuration) -> Configuration:
    """The running configuration with the live sections of the wanted one.

    Raises `SpecInvalid` where these do not fit what runs on until a restart (a batch smaller than the running
    model's largest request, say).
    """
    whole = to_wire(running.spec) | {section: to_wire(getattr(wanted.spec, section)) for section in ("batching", "load")}
    return replace(running, spec=read(DTESNBatcherSpec, whole, "spec"), config_hash=wanted.config_hash)


async def watch(
    started: Configuration,
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    *,
    interval: float = POLL_SECONDS,
) -> AsyncGenerator[Configuration | SpecInvalid, None]:
    """Every new version of the file that `started` was loaded from: the configuration, or all that is wrong with it.

    A version whose bytes are those in force is passed over, unless a bad one came between. The file is looked at and
    read in a thread, since its file system may hang. Ends at once where `started` has no file.
    """
    if started.source is None:
        return
    state, good, failing = FileState(), started.config_hash, False
    while True:
        await asyncio.sleep(interval)
        now = await asyncio.to_thread(fingerprint, started.source)
        state, due = look(state, now)
        if not due:
            continue
        try:
            wanted = await asyncio.to_thread(load_configuration, started.source, environ, flags)
        except SpecInvalid as error:
            failing = True
            yield error
            continue
        if failing or wanted.config_hash != good:
            failing, good = False, wanted.config_hash
            yield wanted
