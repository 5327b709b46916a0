from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from dtesn_sidecar.compute.folder import PrivateFolder

MAKE = "import os,sys;from pathlib import Path;from dtesn_sidecar.compute.folder import PrivateFolder;f=PrivateFolder(Path(sys.argv[1]))\n"


def test_a_folder_is_this_users_alone_and_gone_once_removed(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "512").mkdir()
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone_by_another_start(tmp_path: Path) -> None:
    first, second = PrivateFolder(tmp_path), PrivateFolder(tmp_path)
    assert first.path.exists()
    assert second.path.exists()
    first.remove()
    second.remove()


def test_what_a_killed_process_left_is_removed_by_the_next_start(tmp_path: Path) -> None:
    program = MAKE + "os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    [left] = tmp_path.iterdir()
    folder = PrivateFolder(tmp_path)
    assert list(tmp_path.iterdir()) == [folder.path] != [left]
    folder.remove()


def test_a_process_that_ends_without_stopping_removes_its_folder(tmp_path: Path) -> None:
    program = MAKE + "if os.fork() == 0: sys.exit()\nos.wait(); print(f.path.exists())"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_that_ends_does_not_remove_its_parents_folder(tmp_path: Path) -> None:
    program = MAKE + "if os.fork() == 0: sys.exit()\nos.wait(); print(f.path.exists())"
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True).stdout == "True\n"
    assert os.listdir(tmp_path) == []
