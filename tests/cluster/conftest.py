"""The control plane that all tests of this folder share, and a namespace for each test."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane

ARTEFACTS = Path("test-artefacts") / "cluster"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A control plane with controllers and two fake nodes. Its logs are kept in test-artefacts where a test failed."""
    folder = tmp_path_factory.mktemp("cluster")
    with ControlPlane.started(folder) as plane:
        yield plane
    if request.session.testsfailed:
        shutil.rmtree(ARTEFACTS, ignore_errors=True)
        shutil.copytree(plane.logs, ARTEFACTS)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own, deleted without waiting."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
