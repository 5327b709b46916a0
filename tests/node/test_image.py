"""The container image: what is in it, what is not, and that it is the same each time."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from tests.node import archive, gpu, image
from tests.node.machine import ROOT

MIB = 2**20
MOST = 200_000_000


@pytest.fixture(scope="module")
def built() -> tuple[Path, Path]:
    """The archives of both builds."""
    one, two, *_ = map(Path, os.environ["DTESN_NODE_IMAGES"].split(os.pathsep))
    return one, two


@pytest.fixture(scope="module")
def entries(built: tuple[Path, Path]) -> dict:
    """What the image has above its base."""
    return archive.read(built[0]).entries(built[0])


def test_two_builds_have_the_same_layers(built: tuple[Path, Path]) -> None:
    one, two = map(archive.read, built)
    assert one.layers == two.layers
    assert len(one.layers) == 2  # the base, and ours
    assert one.config["config"]["Labels"] != two.config["config"]["Labels"]  # so they are two builds


def test_it_is_less_than_200_mb_above_its_base(entries: dict) -> None:
    size = sum(entry.size for entry in entries.values())
    print(f"{size / MIB:.0f} MiB above the base, {len(entries)} files")
    assert 50 * MIB < size < MOST


def test_both_commands_are_there_and_nothing_lies_outside_their_folder(entries: dict) -> None:
    assert {"opt/dtesn/bin/dtesn-sidecar", "opt/dtesn/bin/dtesn-operator"} <= set(entries)
    files = [name for name, entry in entries.items() if not entry.isdir()]
    assert [name for name in files if not name.startswith("opt/dtesn/")] == []


def test_there_is_no_pip_no_compiler_no_cache_and_no_test_of_numpy_s(entries: dict) -> None:
    names = set(entries)
    site = next(name for name in names if name.endswith("/site-packages"))
    for absent in ("pip", "uv", "setuptools", "hatchling", "pytest"):
        assert f"{site}/{absent}" not in names
    commands = {Path(name).name for name in names if name.startswith("opt/dtesn/bin/")}
    assert not commands & {"pip", "pip3", "uv", "cc", "gcc", "g++", "ld", "make"}
    assert [name for name in names if "/.cache/" in name or (name.startswith(f"{site}/numpy/") and "/tests/" in name)] == []


def test_nobody_but_root_may_change_what_is_in_it(entries: dict) -> None:
    assert [name for name, entry in entries.items() if entry.uid != 0 or (entry.mode & 0o022 and not entry.issym())] == []


def test_every_module_has_its_byte_code_which_holds_no_time(entries: dict) -> None:
    sources = [name for name in entries if name.endswith(".py") and "/site-packages/dtesn_" in name]
    assert len(sources) > 200
    for name in sources:
        file = Path(name)
        assert any(f"{file.parent}/__pycache__/{file.stem}.cpython-3{minor}.pyc" in entries for minor in range(11, 20)), name


def test_it_runs_as_a_user_without_a_name_and_says_what_it_is(built: tuple[Path, Path]) -> None:
    config = archive.read(built[0]).config["config"]
    assert config["User"] == "65532:65532"
    assert config["Cmd"] == ["dtesn-sidecar", "serve"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert labels["title"] == project["name"]
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert labels["base.name"] == image.BASE
    assert labels["revision"] == "1"
    assert labels["description"]


def test_the_gpu_argument_adds_cupy_with_its_cuda_libraries_and_leaves_what_is_locked_as_it_is() -> None:
    found = dict(line.split("==") for line in Path(os.environ["DTESN_NODE_GPU"]).read_text(encoding="utf-8").split())
    assert f"cupy-cuda12x[ctk]=={found['cupy-cuda12x']}" == gpu.pinned()
    wanted = {f"nvidia-{name}-cu12" for name in ("cublas", "cuda-nvrtc", "cuda-runtime")} | {"nvidia-ml-py", "array-api-compat"}
    assert wanted <= found.keys()
    locked = set(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    names = {name for name, _ in locked}
    assert {(name, version) for name, version in found.items() if name in names} <= locked
    assert len(found.keys() & names) > 30
