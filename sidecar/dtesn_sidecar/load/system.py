"""The `system` provider: how much of the CPU and memory that this container may use is taken by others.

The CPU time of this process and of its workers does not count: a server's own work must not shrink its own
batches. What else runs in the container counts against the container's quota, what runs on the node against the
node's CPUs. Memory counts only where it gets tight. The limits themselves are read by `dtesn_sidecar.cgroup`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dtesn_sidecar import cgroup
from dtesn_sidecar.load.readings import LoadProvider, NoData

MEMORY_TIGHT = 0.8  # below this share of the memory bound, memory slows nothing down and is no load
_SHORTEST = 0.05  # seconds; over less, the 10 ms ticks of /proc are noise


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU seconds used so far: by the whole `node`, by the `container` (None: no cgroup counts), by `own` processes; `at` that time."""

    at: float
    node: float
    container: float | None
    own: float


def cpu_load(before: CpuTimes, after: CpuTimes, *, node_cpus: float, quota: float) -> float:
    """Share in [0, 1] of the CPUs this container may use that others take.

    `node_cpus` is the size of the node, `quota` (in CPUs, at most `node_cpus`) what the container may use of it.
    """
    seconds = after.at - before.at
    own = after.own - before.own
    on_node = max(0.0, after.node - before.node - own) / seconds
    usable = min(quota, node_cpus - on_node)
    if before.container is not None and after.container is not None:
        usable = min(usable, quota - max(0.0, after.container - before.container - own) / seconds)
    return min(1.0, max(0.0, 1.0 - usable / quota))


def memory_load(share: float) -> float:
    """0 up to `MEMORY_TIGHT` of the memory bound in use, then linearly up to 1 at the bound."""
    return min(1.0, max(0.0, (share - MEMORY_TIGHT) / (1.0 - MEMORY_TIGHT)))


def parse_node_seconds(stat: str, tick: float) -> float:
    """CPU seconds that the node was busy, from the text of /proc/stat. Steal is another's work; idle and iowait are not."""
    fields = stat.split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) * tick


def parse_process(stat: str) -> tuple[int, int]:
    """Parent and CPU ticks (its own and of children it has waited for), from the text of /proc/PID/stat."""
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may contain anything
    return int(fields[1]), sum(int(field) for field in fields[11:15])


def parse_container_seconds(text: str) -> float | None:
    """CPU seconds of a cgroup, from the text of cpu.stat (version 2) or of cpuacct.usage (version 1)."""
    if text.strip().isdigit():
        return int(text) / 1e9
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) / 1e6
    return None


def own_seconds(processes: Iterable[tuple[int, int, int]], root: int, tick: float) -> float:
    """CPU seconds of `root` and all its descendants, given (pid, parent, ticks) of every process."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for pid, parent, used in processes:
        ticks[pid] = used
        children.setdefault(parent, []).append(pid)
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        total += ticks.get(pid, 0)
        todo.extend(children.get(pid, ()))
    return total * tick


def system_load(
    clock: Callable[[], float], *, pid: int | None = None, proc: Path = cgroup.PROC, mount: Path = cgroup.MOUNT
) -> LoadProvider:
    """The provider. Needs two polls for the CPU; until then it has no data."""
    tick = 1.0 / os.sysconf("SC_CLK_TCK")
    root = os.getpid() if pid is None else pid
    before: CpuTimes | None = None

    def system() -> float | NoData:
        nonlocal before
        stat = (proc / "stat").read_text()
        now = CpuTimes(clock(), parse_node_seconds(stat, tick), _container_seconds(proc, mount), own_seconds(_processes(proc), root, tick))
        if before is None or now.at - before.at < _SHORTEST:
            before = before or now
            return NoData("the CPU is measured between two polls, and this was the first")
        node_cpus = float(sum(line.startswith("cpu") for line in stat.splitlines()) - 1)
        quota = min(node_cpus, cgroup.cpus(proc=proc, mount=mount))
        cpu = cpu_load(before, now, node_cpus=node_cpus, quota=quota)
        before = now
        share = cgroup.memory_share(proc=proc, mount=mount)
        return cpu if share is None else max(cpu, memory_load(share))

    return system


def _processes(proc: Path) -> Iterable[tuple[int, int, int]]:
    for folder in os.listdir(proc):
        if folder.isdigit():
            try:
                stat = (proc / folder / "stat").read_text()
            except OSError:  # it has ended since the listing
                continue
            yield int(folder), *parse_process(stat)


def _container_seconds(proc: Path, mount: Path) -> float | None:
    """CPU time of this process's innermost cgroup, unless that is the whole machine's."""
    for controller, file in (("cpu", "cpu.stat"), ("cpuacct", "cpuacct.usage")):
        for folder in cgroup.folders(controller, proc=proc, mount=mount)[:1]:
            try:
                seconds = parse_container_seconds((folder / file).read_text())
            except OSError:
                continue
            if seconds is not None:
                return seconds
    return None
