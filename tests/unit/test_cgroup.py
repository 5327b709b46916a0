from __future__ import annotations

from pathlib import Path

import pytest

from dtesn_sidecar import cgroup

MEMINFO = "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n"


class Machine:
    """/proc and /sys/fs/cgroup as files under a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.proc, self.mount = root / "proc", root / "cgroup"
        self.put(self.proc / "meminfo", MEMINFO)

    def put(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @property
    def where(self) -> dict[str, Path]:
        return {"proc": self.proc, "mount": self.mount}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def v2(machine: Machine) -> Machine:
    machine.put(machine.proc / "self/cgroup", "0::/pod/box\n")
    machine.put(machine.mount / "cgroup.controllers", "cpu memory\n")
    (machine.mount / "pod/box").mkdir(parents=True)
    return machine


@pytest.fixture
def v1(machine: Machine) -> Machine:
    machine.put(machine.proc / "self/cgroup", "4:memory:/pod\n2:cpu,cpuacct:/pod\n0::/\n")
    for controller in ("cpu", "memory"):
        (machine.mount / controller / "pod").mkdir(parents=True)
    return machine


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))


def test_version_2_quota_of_the_container_and_of_its_parents_bound_the_cpus(v2: Machine) -> None:
    assert cgroup.cpus(**v2.where) == 8
    v2.put(v2.mount / "pod/box/cpu.max", "350000 100000\n")
    assert cgroup.cpus(**v2.where) == 3.5
    assert cgroup.whole_cpus(**v2.where) == 3
    v2.put(v2.mount / "pod/cpu.max", "200000 100000\n")
    assert cgroup.whole_cpus(**v2.where) == 2
    v2.put(v2.mount / "pod/cpu.max", "max 100000\n")
    assert cgroup.whole_cpus(**v2.where) == 3


def test_less_than_one_cpu_is_still_one_worker(v2: Machine) -> None:
    v2.put(v2.mount / "pod/box/cpu.max", "50000 100000\n")
    assert cgroup.whole_cpus(**v2.where) == 1


def test_version_1_quota_bounds_the_cpus_and_minus_one_is_no_quota(v1: Machine) -> None:
    v1.put(v1.mount / "cpu/pod/cpu.cfs_period_us", "100000\n")
    v1.put(v1.mount / "cpu/pod/cpu.cfs_quota_us", "-1\n")
    assert cgroup.cpus(**v1.where) == 8
    v1.put(v1.mount / "cpu/pod/cpu.cfs_quota_us", "250000\n")
    assert cgroup.cpus(**v1.where) == 2.5


def test_affinity_bounds_the_cpus_where_no_quota_does(machine: Machine) -> None:
    assert cgroup.cpus(**machine.where) == 8


def test_free_memory_is_the_limit_less_the_working_set(v2: Machine) -> None:
    box = v2.mount / "pod/box"
    v2.put(box / "memory.max", "1000000000\n")
    v2.put(box / "memory.current", "400000000\n")
    v2.put(box / "memory.stat", "anon 1\ninactive_file 100000000\n")
    assert cgroup.memory_free(**v2.where) == 700_000_000


def test_version_1_free_memory_counts_the_children_in(v1: Machine) -> None:
    box = v1.mount / "memory/pod"
    v1.put(box / "memory.limit_in_bytes", "1000000000\n")
    v1.put(box / "memory.usage_in_bytes", "400000000\n")
    v1.put(box / "memory.stat", "inactive_file 1\ntotal_inactive_file 50000000\n")
    assert cgroup.memory_free(**v1.where) == 650_000_000


def test_the_tightest_of_the_limits_and_of_the_machine_counts(v2: Machine) -> None:
    v2.put(v2.mount / "pod/memory.max", "300000000\n")
    v2.put(v2.mount / "pod/memory.current", "100000000\n")
    v2.put(v2.mount / "pod/box/memory.max", "max\n")
    assert cgroup.memory_free(**v2.where) == 200_000_000
    v2.put(v2.proc / "meminfo", "MemAvailable: 100 kB\n")
    assert cgroup.memory_free(**v2.where) == 102_400


def test_without_a_limit_what_the_machine_has_available_counts(v1: Machine) -> None:
    v1.put(v1.mount / "memory/pod/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    v1.put(v1.mount / "memory/pod/memory.usage_in_bytes", "1\n")
    assert cgroup.memory_free(**v1.where) == 4_096_000_000


def test_where_nothing_is_known_there_is_no_figure(tmp_path: Path) -> None:
    assert cgroup.memory_free(proc=tmp_path, mount=tmp_path) is None
    assert cgroup.folders("memory", proc=tmp_path, mount=tmp_path) == []


def test_memory_beyond_the_limit_is_none_free_not_less(v2: Machine) -> None:
    v2.put(v2.mount / "pod/box/memory.max", "100\n")
    v2.put(v2.mount / "pod/box/memory.current", "400\n")
    assert cgroup.memory_free(**v2.where) == 0
