"""What the image's `gpu` build argument would install: resolved against the package index as the Containerfile asks, and not downloaded.

The whole of it is more than a gigabyte, so the tests build the CPU image alone.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from hashlib import sha256
from pathlib import Path

from tests.cluster.build import MissingPrerequisite, cache_folder
from tests.node.machine import ROOT

PYTHON = "3.13"  # of the default base
EXTRAS = ("operator", "otel", "grpc", "gpu", "nvml")


def pinned() -> str:
    """CuPy as the Containerfile names it."""
    found = re.search(r"'(cupy-cuda12x\[ctk\]==[\d.]+)'", (ROOT / "Containerfile").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def resolved() -> Path:
    """A file with the packages and their versions, one a line. Raises MissingPrerequisite where there are none that fit."""
    key = sha256(b"".join((ROOT / name).read_bytes() for name in ("Containerfile", "pyproject.toml", "requirements.lock"))).hexdigest()[:12]
    file = cache_folder().with_name("images") / f"gpu-{key}.txt"
    if not file.exists():
        for old in file.parent.glob("gpu-*"):
            old.unlink()
        _resolve(file)
    return file


def _resolve(file: Path) -> None:
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    command = [str(uv), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--constraints", "requirements.lock"]
    command += [f"--python-version={PYTHON}", "--python-platform=x86_64-manylinux_2_28", "--only-binary=:all:"]
    command += [f"--extra={extra}" for extra in EXTRAS] + ["pyproject.toml", "-"]
    done = subprocess.run(command, input=f"{pinned()}\n", capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise MissingPrerequisite(f"the image's GPU packages do not resolve:\n{done.stderr[-3000:]}")
    part = file.with_suffix(".part")
    part.write_text(done.stdout, encoding="utf-8")
    part.rename(file)
