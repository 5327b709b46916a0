"""How `drain` finds the server: by a file that a living server holds locked, in a folder that nobody else can write to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dtesn_sidecar import runfile
from dtesn_sidecar.__main__ import main


def test_a_living_server_is_found_by_its_port(tmp_path: Path) -> None:
    with runfile.write(tmp_path / "run", 8080):
        assert runfile.server(tmp_path / "run", 8080) == os.getpid()
        assert runfile.server(tmp_path / "run", 8081) is None
    assert runfile.server(tmp_path / "run", 8080) is None  # the file is still there, its owner is not


def test_a_server_replaces_what_a_dead_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "8080.pid").write_text("999999999999\n")
    with runfile.write(folder, 8080):
        assert runfile.server(folder, 8080) == os.getpid()


def test_two_servers_do_not_share_a_file(tmp_path: Path) -> None:
    with runfile.write(tmp_path, 8080), pytest.raises(BlockingIOError):
        runfile.write(tmp_path, 8080)


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for act in (runfile.write, runfile.server):
        with pytest.raises(PermissionError):
            act(tmp_path, 8080)


def test_a_symlink_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "8080.pid").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        runfile.write(folder, 8080)
    assert target.read_text() == "precious"


def test_all_servers_that_live_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert runfile.servers(folder) == {}
    with runfile.write(folder, 8080), runfile.write(folder, 8081):
        (folder / "8082.pid").write_text("1\n")  # a dead one's
        (folder / "else.pid").write_text("1\n")
        assert runfile.servers(folder) == {8080: os.getpid(), 8081: os.getpid()}
    assert runfile.servers(folder) == {}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that were sent."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    return sent


@pytest.mark.parametrize("environment", [None, "8080", "tcp://10.0.0.7:80"])
def test_drain_tells_the_one_server_wherever_its_port_came_from(
    tmp_path: Path, told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, environment: str | None
) -> None:
    if environment is not None:
        monkeypatch.setenv("DTESN_SIDECAR_PORT", environment)
    with runfile.write(tmp_path / "dtesn-sidecar", 18099):
        assert main(["drain"]) == 0
    assert told == [(os.getpid(), signal.SIGUSR1)]


def test_drain_asks_for_the_port_where_several_run(tmp_path: Path, told: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "dtesn-sidecar"
    with runfile.write(folder, 8081), runfile.write(folder, 8080):
        assert main(["drain"]) == 1
        assert "the ports 8080, 8081: name one with --port" in capsys.readouterr().err
        assert told == []
        assert main(["drain", "--port", "8081"]) == 0
    assert told == [(os.getpid(), signal.SIGUSR1)]


def test_drain_without_a_server_says_so(tmp_path: Path, told: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--port", "1"]) == 1
    assert "no server runs at port 1" in capsys.readouterr().err
    assert main(["drain"]) == 1
    assert "no server runs" in capsys.readouterr().err
    (tmp_path / "dtesn-sidecar").mkdir(mode=0o700)
    (tmp_path / "dtesn-sidecar").chmod(0o777)
    assert main(["drain"]) == 1
    assert "cannot be told" in capsys.readouterr().err
    assert told == []


@pytest.mark.parametrize("command", ["serve", "process", "drain"])
def test_each_command_tells_of_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out) > 300


def test_the_command_line_names_its_commands_and_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["--help"], ("serve", "process", "drain")), (["--version"], ("dtesn-sidecar 0.",))):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
