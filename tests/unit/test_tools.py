"""What a target needs beyond Python: installed by root on Debian, else named with the one command to run; never skipped."""

from __future__ import annotations

import fcntl
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
debian = pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="says something else on other systems")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that comes first on PATH: there one is who `id` says, and `apt-get` writes down what it is asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write(folder / "apt-get", f'echo "$@" >>{tmp_path / "asked"}')
    return folder


def write(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def run(programs: Path, user: int, *command: str) -> subprocess.CompletedProcess[str]:
    write(programs / "id", f"echo {user}")
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(["sh", *command], env=environ, capture_output=True, text=True, check=False, timeout=60)


def one_runs(name: str) -> bool:
    """Whether a program of this name runs below this process."""
    with suppress(psutil.NoSuchProcess):
        return any(process.name() == name for process in psutil.Process().children(recursive=True))
    return False


def packages(programs: Path, user: int, *pairs: str) -> subprocess.CompletedProcess[str]:
    return run(programs, user, str(TOOLS / "debian-packages"), *pairs)


def test_what_is_there_is_left_alone(programs: Path) -> None:
    done = packages(programs, 0, "sh:dash")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (programs.parent / "asked").exists()


@debian
def test_a_library_is_looked_for_where_the_linker_looks(programs: Path) -> None:
    done = packages(programs, 1000, "libc.so.6:libc6", "libnowhere.so.1:libnowhere1", "libc.so.66:libc66")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Missing: libnowhere1 libc66. Run: sudo apt-get install -y --no-install-recommends libnowhere1 libc66"
    ]


@debian
def test_whoever_is_not_root_is_told_the_one_command(programs: Path) -> None:
    done = packages(programs, 1000, "sh:dash", "no-such-program:some-package", "nor-this:some-package", "nor-that:other-package")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Missing: some-package other-package. Run: sudo apt-get install -y --no-install-recommends some-package other-package"
    ]
    assert not (programs.parent / "asked").exists()


@debian
@pytest.mark.skipif(os.getuid() != 0, reason="it writes where only root may")
def test_of_two_at_once_one_waits_and_then_looks_again(programs: Path) -> None:
    with Path("/run/dtesn-debian-packages.lock").open("w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(packages, programs, 0, "no-such-program:some-package")
        while not one_runs("flock"):
            assert not waiting.done()
        write(programs / "no-such-program", "true")
        fcntl.flock(lock, fcntl.LOCK_UN)
    assert waiting.result().returncode == 0
    assert not (programs.parent / "asked").exists()


@debian
@pytest.mark.skipif(os.getuid() != 0, reason="it writes where only root may")
def test_root_has_it_installed_without_a_service_being_started(programs: Path) -> None:
    policy = Path("/usr/sbin/policy-rc.d")
    before = policy.read_bytes() if policy.exists() else None
    done = packages(programs, 0, "no-such-program:some-package")
    assert done.returncode == 0
    update, install = (programs.parent / "asked").read_text().splitlines()
    assert update.startswith("update")
    assert install.endswith(" some-package")
    assert (policy.read_bytes() if policy.exists() else None) == before


def test_an_interpreter_that_is_not_there_is_named_and_nothing_is_made(programs: Path, tmp_path: Path) -> None:
    done = run(programs, 0, str(TOOLS / "bootstrap"), "python3.1", str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "'python3.1' is not a Python >= 3.11" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


@debian
@pytest.mark.parametrize(
    ("user", "words"), [(1000, "Run: sudo apt-get install -y python3 python3-venv"), (0, "installing python3 python3-venv")]
)
def test_a_python_without_its_venv_module_is_completed_by_root_and_named_to_others(
    programs: Path, tmp_path: Path, user: int, words: str
) -> None:
    write(programs / "python3", "exit 1")
    done = run(programs, user, str(TOOLS / "bootstrap"), "python3", str(tmp_path / "venv"))
    assert done.returncode == 1  # of the stand-ins here none installs anything
    assert words in done.stderr
    assert (programs.parent / "asked").exists() is (user == 0)
