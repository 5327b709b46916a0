"""Fixtures that any folder of tests may use: the cluster all of them share, clusters of a test's own, and KEDA.

control_plane       one for the whole run: a new one, or that of `--kubeconfig FILE` (or $DTESN_TEST_KUBECONFIG)
namespace           a namespace of the test's own in it
dry_runs            what its API server makes of specs, without storing them
own_control_plane   a new one for the tests of a module, to be stopped, hung and made forget
keda                a new one in which KEDA runs, for the tests of a module
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import CRDS, ControlPlane, until
from tests.cluster.dry_runs import DryRuns
from tests.cluster.keda import Keda

ARTEFACTS = Path("test-artefacts") / "cluster"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of those who have a cluster."""
    words = "run the tests of tests/cluster in the cluster of this kubeconfig; `make cluster-up` starts one that serves"
    parser.addoption("--kubeconfig", metavar="FILE", default=os.environ.get("DTESN_TEST_KUBECONFIG"), help=words)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with controllers, fake nodes and the resource's definition. A ControlPlane, unless --kubeconfig names one."""
    folder = tmp_path_factory.mktemp("cluster")
    given = request.config.getoption("--kubeconfig")
    if given is not None:
        cluster = Cluster.given(Path(given), folder)
        cluster.kubectl("apply", "--server-side", "--force-conflicts", *(f"--filename={file}" for file in CRDS))
        yield cluster
        return
    with _kept_logs(request, folder, "shared"), ControlPlane.started(folder, first=CRDS) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A namespace of the test's own, deleted without waiting."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    control_plane.create_namespace(name)
    yield name
    control_plane.delete_namespace(name)


@pytest.fixture(scope="session")
def dry_runs(control_plane: Cluster) -> Iterator[DryRuns]:
    """What the API server makes of specs."""
    with DryRuns.over(control_plane) as requests:
        until(lambda: requests.create({}).code == 201, what="a kind that is served")
        yield requests


@pytest.fixture(scope="module")
def own_control_plane(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """One of the module's own, with the resource's definition: its processes may be killed and stopped, if they are back afterwards."""
    folder = tmp_path_factory.mktemp("own")
    with _kept_logs(request, folder, request.node.name), ControlPlane.started(folder, first=CRDS) as plane:
        yield plane


@pytest.fixture(scope="module")
def keda(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Keda]:
    """KEDA in a control plane of its own: its resource definitions would change what the operator finds in the shared one."""
    folder = tmp_path_factory.mktemp("keda")
    with _kept_logs(request, folder, "keda"), Keda.started(folder) as found:
        yield found


@contextmanager
def _kept_logs(request: pytest.FixtureRequest, folder: Path, name: str) -> Iterator[None]:
    """Copies the logs to test-artefacts/cluster where a test failed meanwhile, or the block did."""
    failed, kept = request.session.testsfailed, ARTEFACTS / name
    shutil.rmtree(kept, ignore_errors=True)
    whole = False
    try:
        yield
        whole = request.session.testsfailed == failed
    finally:
        if not whole:
            shutil.copytree(folder / "logs", kept, dirs_exist_ok=True)  # two processes may have had a shared one each
