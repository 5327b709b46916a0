"""The node that all tests of this folder share, the operator installed on it by Helm, and a namespace for each test."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.batchers import Cluster
from tests.node.calls import Caller
from tests.node.node import Node
from tests.node.release import Release

ARTEFACTS = Path("test-artefacts") / "node"
_numbers = itertools.count(1)
_figures: dict[str, float] = {}


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """The node. The logs of its daemons and pods are kept in test-artefacts/node where a test failed."""
    if "DTESN_NODE_FOLDER" not in os.environ:
        pytest.fail("the tests of a real node run in namespaces of their own: make e2e ARGS='-k WORDS'", pytrace=False)
    shutil.rmtree(ARTEFACTS, ignore_errors=True)
    folder = Path(os.environ["DTESN_NODE_FOLDER"])
    images = [Path(file) for file in os.environ["DTESN_NODE_IMAGES"].split(os.pathsep)]
    began, failed = time.monotonic(), True
    try:
        with Node.joined(folder, cgroup=os.environ["DTESN_NODE_CGROUP"], images=images) as found:
            _figures["node Ready from nothing, s"] = time.monotonic() - began
            yield found
            failed = request.session.testsfailed > 0
            if failed:
                _write_state(found)
    finally:
        if failed:
            shutil.copytree(folder / "logs", ARTEFACTS / "logs", dirs_exist_ok=True)


@pytest.fixture(scope="session")
def release(node: Node) -> Release:
    """The chart's release, installed or not."""
    return Release(node)


@pytest.fixture
def operator(release: Release, figure: Callable[[str, float], None]) -> Release:
    """The same, installed."""
    if not release.installed:
        began = time.monotonic()
        release.install()
        figure("helm install to operator Ready, s", time.monotonic() - began)
    return release


@pytest.fixture
def namespace(node: Node) -> Iterator[str]:
    """A namespace of the test's own that admits restricted pods alone. Deleted without waiting."""
    name = f"test-{next(_numbers)}"
    node.make_namespace(name)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def cluster(node: Node, operator: Release, namespace: str) -> Cluster:
    """The test's namespace, with the operator at work."""
    return Cluster(node, namespace)


@pytest.fixture(scope="session")
def caller(node: Node) -> Caller:
    """A pod that requests are sent from."""
    return Caller(node)


@pytest.fixture(scope="session")
def figure() -> Callable[[str, float], None]:
    """Takes what was measured; shown at the end and kept in test-artefacts/node/figures.json."""
    return _figures.__setitem__


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures."""
    if not _figures:
        return
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    (ARTEFACTS / "figures.json").write_text(json.dumps(_figures, indent=1) + "\n")
    terminalreporter.section("figures")
    for name, value in _figures.items():
        terminalreporter.write_line(f"{value:10.2f}  {name}")


def _write_state(node: Node) -> None:
    """What the API server holds, for whoever looks at the failure."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for name, what in (("events", "events"), ("objects", "dtesnbatchers,deployments,pods,services,configmaps")):
        done = node.kubectl("get", what, "--all-namespaces", "--output=yaml", check=False)
        (ARTEFACTS / f"{name}.yaml").write_text(done.stdout + done.stderr)
