"""What import-linter cannot see: imports that are made by name while the program runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(ROOT / "sidecar").rglob("*.py"), *(ROOT / "crds").rglob("*.py")]


def test_cupy_is_imported_in_one_file() -> None:
    imports = re.compile(r"^\s*(import|from) cupy|import_module\([\"'](array_api_compat\.)?cupy", re.MULTILINE)
    found = {source.relative_to(ROOT / "sidecar").as_posix() for source in SOURCES if imports.search(source.read_text(encoding="utf-8"))}
    assert found == {"dtesn_sidecar/model/backend.py"}
