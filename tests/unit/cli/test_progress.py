"""The progress bar: on a terminal, for long work, on standard error; else nothing, and `rich` is not even imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from dtesn_sidecar.cli import progress
from dtesn_sidecar.cli.progress import Progress


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is written for some work: on a terminal or not, after the patience has run out or not."""

    def run(*, terminal: bool, patience: float, quiet: bool = False) -> str:
        monkeypatch.setattr(progress, "_PATIENCE_S", patience)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        monkeypatch.setenv("TERM", "xterm")  # a dumb one, as in a build, shows no bar
        with Progress(quiet=quiet) as bar:
            for phase in ("drawing weights", "computing samples"):
                bar.phase(phase, 3)
                bar.done(1)
                bar.reached(3)
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run


def test_long_work_on_a_terminal_shows_its_phases(said: Callable[..., str]) -> None:
    shown = said(terminal=True, patience=-1.0)
    assert "computing samples" in shown
    assert "3/3" in shown


@pytest.mark.parametrize("how", [{"terminal": False, "patience": -1.0}, {"terminal": True, "patience": 1e9}])
def test_short_work_and_work_in_a_pipe_show_nothing(how: dict[str, float], said: Callable[..., str]) -> None:
    assert said(**how) == ""


def test_quiet_is_quiet(said: Callable[..., str]) -> None:
    assert said(terminal=True, patience=-1.0, quiet=True) == ""


@pytest.mark.parametrize(
    "module", ["dtesn_sidecar.cli.fit", "dtesn_sidecar.cli.evaluate", "dtesn_sidecar.processor", "dtesn_sidecar.compute.drive"]
)
def test_heavy_libraries_are_not_imported_before_they_are_used(module: str) -> None:
    program = f"import sys, {module}; print([name for name in ('rich', 'safetensors', 'sklearn', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
