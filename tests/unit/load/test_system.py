"""CPU and memory of the container and the node: parsing, the arithmetic, and the provider on a folder of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar.load import NoData
from dtesn_sidecar.load.system import (
    CpuTimes,
    cpu_load,
    memory_load,
    own_seconds,
    parse_container_seconds,
    parse_node_seconds,
    parse_process,
    system_load,
)

SECONDS = st.floats(0, 1000)


def times(at: float, node: float, container: float | None, own: float) -> CpuTimes:
    return CpuTimes(at, node, container, own)


def test_own_work_is_no_load() -> None:
    assert cpu_load(times(0, 0, 0, 0), times(1, 2, 2, 2), node_cpus=2, quota=2) == 0


def test_others_on_the_node_are_load_once_they_take_what_the_quota_grants() -> None:
    idle = times(0, 0, 0, 0)
    assert cpu_load(idle, times(1, 6, 0, 0), node_cpus=8, quota=2) == 0
    assert cpu_load(idle, times(1, 7, 0, 0), node_cpus=8, quota=2) == pytest.approx(0.5)
    assert cpu_load(idle, times(1, 8, 0, 0), node_cpus=8, quota=2) == 1
    assert cpu_load(idle, times(1, 2, None, 0), node_cpus=8, quota=8) == pytest.approx(0.25)


def test_others_in_the_container_take_from_its_quota() -> None:
    assert cpu_load(times(0, 0, 0, 0), times(1, 2, 2, 0.5), node_cpus=64, quota=2) == pytest.approx(0.75)


@given(SECONDS, SECONDS, st.one_of(st.none(), SECONDS), st.floats(0.05, 100), st.floats(0.1, 64), st.floats(0.1, 64))
def test_the_cpu_load_is_a_ratio_and_never_falls_when_others_work_more(
    node: float, own: float, container: float | None, seconds: float, cpus: float, quota: float
) -> None:
    def load(more: float) -> float:
        base = None if container is None else 0.0
        return cpu_load(times(0, 0, base, 0), times(seconds, node + more, container, own), node_cpus=cpus, quota=min(cpus, quota))

    assert 0 <= load(0) <= load(1) <= 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_memory_is_a_load_only_where_it_gets_tight(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= memory_load(low) <= memory_load(high) <= 1
    assert memory_load(0.8) == 0
    assert memory_load(1.0) == 1


def test_steal_is_others_work_and_waiting_for_a_disk_is_not() -> None:
    text = "cpu  100 1 50 9999 777 2 3 44 5 6\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert parse_node_seconds(text, 0.01) == pytest.approx(2.0)


@given(st.text(st.characters(exclude_characters="\n"), max_size=16), st.integers(0, 4_000_000), st.integers(0, 10**9))
def test_a_process_may_have_any_name(name: str, parent: int, ticks: int) -> None:
    fields = ["S", str(parent), *["0"] * 9, str(ticks), "1", "2", "3", *["0"] * 30]
    assert parse_process(f"77 ({name}) " + " ".join(fields)) == (parent, ticks + 6)


def test_own_processes_are_this_one_and_all_below_it() -> None:
    table = [(1, 0, 1000), (10, 1, 5), (11, 10, 7), (12, 11, 11), (20, 1, 500), (21, 20, 300)]
    assert own_seconds(table, 10, 0.01) == pytest.approx(0.23)
    assert own_seconds(table, 99, 0.01) == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("usage_usec 2500000\nuser_usec 1\n", 2.5), ("2500000000\n", 2.5), ("nr_periods 0\nnr_throttled 0\n", None)]
)
def test_cpu_time_of_a_cgroup_of_either_version(text: str, seconds: float | None) -> None:
    assert parse_container_seconds(text) == seconds


class Machine:
    """Files as the kernel shows them, of a container with a cgroup namespace of its own."""

    def __init__(self, folder: Path, version: int) -> None:
        self.version, self.proc, self.mount, self.now = version, folder / "proc", folder / "cgroup", 100.0
        for path in (
            self.proc / "self",
            self.proc / "10",
            self.proc / "11",
            self.mount / "cpu",
            self.mount / "cpuacct",
            self.mount / "memory",
        ):
            path.mkdir(parents=True)
        self.proc.joinpath("not-a-pid").mkdir()
        self.cpu(0, 0, 0)
        self.memory(100)
        if version == 2:
            (self.proc / "self/cgroup").write_text("0::/\n")
            (self.mount / "cgroup.controllers").write_text("cpu memory\n")
            (self.mount / "cpu.max").write_text("200000 100000\n")
            (self.mount / "memory.max").write_text("1000\n")
        else:
            (self.proc / "self/cgroup").write_text("3:memory:/\n2:cpuacct:/\n1:cpu:/\n")
            (self.mount / "cpu/cpu.cfs_quota_us").write_text("200000\n")
            (self.mount / "cpu/cpu.cfs_period_us").write_text("100000\n")
            (self.mount / "memory/memory.limit_in_bytes").write_text("1000\n")

    def cpu(self, node: float, container: float, own: float) -> None:
        cores = "".join(f"cpu{i} 0 0 0 0 0 0 0 0 0 0\n" for i in range(8))
        (self.proc / "stat").write_text(f"cpu  {int(node * 100)} 0 0 0 0 0 0 0 0 0\n{cores}intr 1\n")
        for pid, parent, ticks in ((10, 1, int(own * 60)), (11, 10, int(own * 40))):
            (self.proc / str(pid) / "stat").write_text(f"{pid} (python) S {parent} {'0 ' * 9}{ticks} 0 0 0 {'0 ' * 20}\n")
        (self.mount / "cpu.stat").write_text(f"usage_usec {int(container * 1e6)}\n")
        (self.mount / "cpuacct/cpuacct.usage").write_text(f"{int(container * 1e9)}\n")

    def memory(self, used: int) -> None:
        (self.proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 900 kB\n")
        (self.mount / "memory.current").write_text(f"{used + 50}\n")
        (self.mount / "memory.stat").write_text("inactive_file 50\n")
        (self.mount / "memory/memory.usage_in_bytes").write_text(f"{used + 50}\n")
        (self.mount / "memory/memory.stat").write_text("total_inactive_file 50\n")


@pytest.fixture(params=[1, 2], ids=["cgroup-v1", "cgroup-v2"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr("os.sysconf", lambda _name: 100)
    return Machine(tmp_path, request.param)


def provider_of(machine: Machine):
    return system_load(lambda: machine.now, pid=10, proc=machine.proc, mount=machine.mount)


def test_the_provider_needs_two_polls_and_then_leaves_its_own_work_out(machine: Machine) -> None:
    provider = provider_of(machine)
    assert isinstance(provider(), NoData)
    machine.now += 2
    machine.cpu(node=6, container=4, own=3)
    # of the quota of 2 CPUs, others in the container take 0.5; the node has enough left
    assert provider() == pytest.approx(0.25)
    machine.now += 1
    assert provider() == 0


def test_the_provider_reports_tight_memory(machine: Machine) -> None:
    provider = provider_of(machine)
    provider()
    machine.now += 1
    machine.memory(900)
    assert provider() == pytest.approx(0.5)


def test_where_nothing_can_be_read_the_reason_reaches_the_tracker(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        system_load(lambda: 0.0, proc=tmp_path, mount=tmp_path)()
