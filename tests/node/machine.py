"""What the node level needs of the machine, and what it gives back: root, cgroups of its own, kernel settings as they were."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.build import MissingPrerequisite

ROOT = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")
# Program and Debian package of each; CNI's plugins are on no PATH, so their package is looked for by its folder.
PACKAGES = (
    "containerd:containerd",
    "runc:runc",
    "/usr/lib/cni/bridge:containernetworking-plugins",
    "iptables:iptables",
    "conntrack:conntrack",
    "buildah:buildah",
    "debootstrap:debootstrap",
    "/bin/busybox:busybox-static",
    "ip:iproute2",
    "unshare:util-linux",
    "prometheus:prometheus",
)
# What a kubelet sets for the whole machine, namespaces or not.
_KUBELET_SETS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def check() -> None:
    """Raises MissingPrerequisite where this cannot be done here; installs Debian packages that are missing."""
    if sys.platform != "linux":
        raise MissingPrerequisite("a real node needs Linux, for namespaces, cgroups and containerd; `make test` has the control plane")
    if os.geteuid() != 0:
        raise MissingPrerequisite("a real node needs root, for namespaces, mounts and cgroups. Run: sudo make e2e")
    if not (CGROUPS / "memory").is_dir() and not (CGROUPS / "cgroup.controllers").is_file():
        raise MissingPrerequisite(f"no cgroups below {CGROUPS}: pods could not be limited")
    if subprocess.run(["sh", str(ROOT / "tools" / "debian-packages"), *PACKAGES], check=False).returncode:
        raise MissingPrerequisite("the Debian packages named above are missing")


@contextmanager
def cgroup(name: str) -> Iterator[str]:
    """A cgroup of one's own in every hierarchy, removed with all below it. Yields its path as a kubelet wants it."""
    made = [parent / name for parent in _hierarchies()]
    for group in made:
        group.mkdir(exist_ok=True)
        if group.parent.name == "cpuset":  # version 1: a new group has no CPUs and takes no process
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((group.parent / file).read_text())
    try:
        yield f"/{name}"
    finally:
        for group in made:
            _removed(group)


def memory_group(process: str) -> str:
    """The folder of the cgroup that a process's memory is counted in."""
    for line in Path("/proc", process, "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return f"{CGROUPS}/memory{path}"
        if not controllers and (CGROUPS / "cgroup.controllers").is_file():
            return f"{CGROUPS}{path}"
    raise LookupError(f"process {process} is in no group of memory")


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").is_file():
        return [CGROUPS]
    return sorted(folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").is_file() and not folder.is_symlink())


def _removed(group: Path, seconds: float = 10.0) -> None:
    """Remove a group and all below it: processes that were killed leave theirs a moment later."""
    deadline = time.monotonic() + seconds
    for below in [*sorted((folder for folder in group.rglob("*") if folder.is_dir()), reverse=True), group]:
        while True:
            try:
                below.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@contextmanager
def kernel_settings() -> Iterator[None]:
    """Puts back what a kubelet sets for the whole machine."""
    files = [file for name in _KUBELET_SETS if (file := Path("/proc/sys") / name).is_file()]
    before = {file: file.read_text() for file in files}
    try:
        yield
    finally:
        for file, value in before.items():
            if file.read_text() != value:
                file.write_text(value)
