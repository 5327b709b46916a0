"""The wheel has the page's files: without them an installed server would have no page."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from dtesn_sidecar.pages.files import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_carries_every_file_of_the_page(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("dtesn_sidecar/pages/assets/")}
    files = load()
    assert "page.html" in files
    assert packed == {f"dtesn_sidecar/pages/assets/{name}": file.body for name, file in files.items()}
