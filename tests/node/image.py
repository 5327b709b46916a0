"""The images of the node tests: the project's own, built twice from its Containerfile, and two small ones that stand beside it.

No registry is needed: the base is a Debian root file system by debootstrap, from the mirror that apt uses, with this machine's
certificate authorities. Archives are kept in the user's cache, keyed by what they are made of.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.cluster.build import MissingPrerequisite, cache_folder, say
from tests.node.machine import ROOT

SUITE = "bookworm"
BASE = "localhost/debian-python:1"
IMAGE = "localhost/dtesn-batcher:1"
NEXT = "localhost/dtesn-batcher:2"  # the same files built again, with another revision in its labels
PROMETHEUS = "localhost/prometheus:1"
PAUSE = "localhost/pause:1"
_PARTS = ("Containerfile", ".containerignore", "LICENSE", "README.md", "pyproject.toml", "requirements.lock")
_SOURCES = ("crds/dtesn_api", "operator/dtesn_operator", "sidecar/dtesn_sidecar")
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def archives() -> list[Path]:
    """The archives of all images; built where they are not yet. Raises MissingPrerequisite where that cannot be."""
    folder = cache_folder().with_name("images")
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"base-{SUITE}-{_digest(_bundle())}.tar"
    if not base.exists():
        _make_base(base)
    with tempfile.TemporaryDirectory(prefix="context-", dir=folder) as room:
        context = _context(Path(room))
        key = _digest(base.name.encode(), *(f"{file.relative_to(context)}".encode() + file.read_bytes() for file in _files(context)))
        one, two, prometheus, pause = (folder / f"{name}.tar" for name in (f"one-{key}", f"two-{key}", _prometheus(base), "pause"))
        if not (one.exists() and two.exists()):
            _forget(folder, "one-*", "two-*")
            _make(context, base, one, two)
        if not prometheus.exists():
            _forget(folder, "prometheus-*")
            _make_prometheus(base, prometheus)
        if not pause.exists():
            _write_pause(pause)
    return [one, two, prometheus, pause]


def _forget(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for old in folder.glob(pattern):
            old.unlink()


def _context(room: Path) -> Path:
    """A copy of what the image is made of, so that both builds have the same while somebody edits."""
    for part in _PARTS:
        shutil.copyfile(ROOT / part, room / part)
    for part in _SOURCES:
        shutil.copytree(ROOT / part, room / part, ignore=shutil.ignore_patterns("__pycache__"))
    return room


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _digest(*parts: bytes) -> str:
    return sha256(b"\0".join(sha256(part).digest() for part in parts)).hexdigest()[:12]


def _bundle() -> bytes:
    file = Path("/") / _BUNDLE
    return file.read_bytes() if file.exists() else b""


def _make_base(file: Path) -> None:
    say(f"making the base of the image, a Debian {SUITE} with Python (about a minute the first time)")
    with tempfile.TemporaryDirectory(dir=file.parent) as room:
        root = Path(room) / "root"
        _run("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", SUITE, str(root), _mirror())
        shutil.rmtree(root / "var" / "cache" / "apt")
        shutil.rmtree(root / "var" / "lib" / "apt" / "lists")
        (root / _BUNDLE).write_bytes(_bundle() or (root / _BUNDLE).read_bytes())
        part = Path(room) / "base.tar"
        _run("tar", "--numeric-owner", "--sort=name", "-C", str(root), "-cf", str(part), ".")
        part.rename(file)


def _mirror() -> str:
    """Where apt has the suite's packages from."""
    listed = _run("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME) $(COMPONENT) $(CREATED_BY)")
    for line in listed.splitlines():
        if (words := line.split())[1:] == [SUITE, "main", "Packages"]:
            return words[0]
    raise MissingPrerequisite(f"apt knows no mirror of {SUITE}'s main component")


def _make(context: Path, base: Path, one: Path, two: Path) -> None:
    say("building the image from the Containerfile, twice, which must give the same (about a minute)")
    with _storage(one.parent) as build, ThreadPoolExecutor() as pool:
        build.from_archive(base, BASE)

        def make(number: int, tag: str, file: Path) -> None:
            build.image(context, tag, f"BASE={BASE}", f"REVISION={number}")
            build.push(tag, file)

        for made in [pool.submit(make, 1, IMAGE, one), pool.submit(make, 2, NEXT, two)]:
            made.result()


def _prometheus(base: Path) -> str:
    return f"prometheus-{_digest(base.name.encode(), Path(_program('prometheus')).read_bytes())}"


def _make_prometheus(base: Path, file: Path) -> None:
    with _storage(file.parent) as build, tempfile.TemporaryDirectory() as room:
        build.from_archive(base, BASE)
        shutil.copy(_program("prometheus"), Path(room) / "prometheus")
        (Path(room) / "Containerfile").write_text(f"FROM {BASE}\nCOPY prometheus /usr/bin/prometheus\nUSER 65532:65532\n")
        build.image(Path(room), PROMETHEUS)
        build.push(PROMETHEUS, file)


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, name
    return found


@dataclass(frozen=True)
class _Build:
    """buildah with a storage of its own."""

    folder: Path
    driver: str

    def from_archive(self, rootfs: Path, tag: str) -> None:
        """An image of one layer."""
        context = self.folder / "base"
        context.mkdir()
        os.link(rootfs, context / "base.tar")
        (context / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
        self.image(context, tag)

    def image(self, context: Path, tag: str, *arguments: str) -> None:
        """Build a Containerfile."""
        options = [f"--build-arg={argument}" for argument in arguments]
        self._buildah("bud", "--isolation", "chroot", "--timestamp", "0", *options, "--tag", tag, str(context))

    def push(self, tag: str, file: Path) -> None:
        """Write the image as an archive."""
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        self._buildah("push", tag, f"docker-archive:{part}:{tag}")
        part.rename(file)

    def _buildah(self, *arguments: str) -> str:
        place = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"), "--storage-driver", self.driver]
        return _run("buildah", *place, *arguments)


@contextmanager
def _storage(folder: Path) -> Iterator[_Build]:
    """One that is forgotten. Layers are stacked where the kernel does that here, and copied, which takes longer, where it does not."""
    with tempfile.TemporaryDirectory(prefix="storage-", dir=folder) as room:
        trial = ["buildah", "--root", f"{room}/trial", "--runroot", f"{room}/run", "--storage-driver", "overlay", "info"]
        stacks = subprocess.run(trial, capture_output=True, check=False).returncode == 0
        yield _Build(Path(room), "overlay" if stacks else "vfs")


def _write_pause(file: Path) -> None:
    """What holds a pod's namespaces: busybox asleep. It is the last to be killed, so it need not listen to signals."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add("/bin/busybox", arcname="busybox", filter=_plain)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/busybox", "sleep", "2147483647"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    with tarfile.open(file, "w") as tar:
        for name, content in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = re.sub(r"\n+", "\n", done.stderr + done.stdout)
        raise MissingPrerequisite(f"{' '.join(command)} failed:\n{said[-4000:]}")
    return done.stdout
