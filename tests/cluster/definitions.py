"""CustomResourceDefinitions of other projects that the chart and the operator write objects of, from their Go modules as published.

They are downloaded once and kept beside the built programs. Nothing of these projects runs: the API server then knows their kinds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.build import MissingPrerequisite, cache_folder, go, say


@dataclass(frozen=True)
class Definitions:
    """Files of one module. `checksum` is what go.sum would say of it."""

    module: str
    version: str
    checksum: str
    pattern: str

    def files(self) -> list[Path]:
        """The files. Raises MissingPrerequisite where they cannot be had."""
        folder = cache_folder() / f"definitions-{self.module.replace('/', '-')}-{self.version}"
        if not folder.is_dir():
            self._download(folder)
        return sorted(folder.iterdir())

    def _download(self, folder: Path) -> None:
        say(f"downloading {self.module} {self.version} for its resource definitions")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            command = [go(), "mod", "download", "-json", f"{self.module}@{self.version}"]
            settings = {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "GONOSUMDB": self.module}  # the checksum is compared here
            done = subprocess.run(command, cwd=part, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingPrerequisite(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            found = json.loads(done.stdout)
            if found["Sum"] != self.checksum:
                raise MissingPrerequisite(f"{self.module} {self.version} is not what it was: {found['Sum']}, not {self.checksum}")
            kept = Path(part) / "files"
            kept.mkdir()
            for file in Path(found["Dir"]).glob(self.pattern):
                shutil.copyfile(file, kept / file.name)
            if not folder.exists():  # another run may have been faster
                kept.rename(folder)


CERT_MANAGER = Definitions(
    "github.com/cert-manager/cert-manager",
    "v1.21.2",
    "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
    "deploy/crds/cert-manager.io_*s.yaml",
)
POD_MONITOR = Definitions(
    "github.com/prometheus-operator/prometheus-operator",
    "v0.89.0",
    "h1:2HA351OwWBa10H6TDhjeSdHOA7wiY71sEivg+z2cykk=",
    "example/prometheus-operator-crd/*_podmonitors.yaml",
)
KEDA = Definitions(
    "github.com/kedacore/keda/v2",
    "v2.21.0",
    "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
    "config/crd/bases/keda.sh_scaledobjects.yaml",
)
