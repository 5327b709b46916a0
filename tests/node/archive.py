"""An image in an archive, as `buildah push docker-archive:` writes it: what its configuration says and what its layers hold."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Archive:
    """An image in an archive: its configuration, and its layers by the digest of their content."""

    config: dict[str, Any]
    layers: tuple[str, ...]

    def entries(self, file: Path) -> dict[str, tarfile.TarInfo]:
        """Files and folders of the last layer, the one above the base, by path."""
        with tarfile.open(file) as outer:
            manifest = json.load(_member(outer, "manifest.json"))[0]
            with tarfile.open(fileobj=_member(outer, manifest["Layers"][-1])) as layer:
                return {entry.name.removeprefix("./"): entry for entry in layer}


def read(file: Path) -> Archive:
    """An archive's configuration and layers."""
    with tarfile.open(file) as outer:
        manifest = json.load(_member(outer, "manifest.json"))[0]
        config = json.load(_member(outer, manifest["Config"]))
    return Archive(config, tuple(config["rootfs"]["diff_ids"]))


def _member(tar: tarfile.TarFile, name: str) -> Any:
    found = tar.extractfile(name)
    assert found is not None, name
    return found
