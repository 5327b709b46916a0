"""The chart's release on the node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.build import binary
from tests.node import image
from tests.node.node import Node

CHART = Path(__file__).resolve().parents[2] / "charts" / "dtesn-batcher"


class Release:
    """The operator, as `helm install` makes it."""

    name = "dtesn"
    namespace = "dtesn-system"
    user = "system:serviceaccount:dtesn-system:dtesn-dtesn-batcher"

    def __init__(self, node: Node) -> None:
        self.node = node
        self.installed = False

    def install(self) -> None:
        """Install it into a namespace that admits restricted pods alone, and wait until its pods are Ready."""
        self.node.make_namespace(self.namespace)
        self.helm("install", self.name, str(CHART), *_image(image.IMAGE), "--wait", "--timeout=120s")
        self.installed = True

    def remove(self) -> None:
        """Remove it with its namespace; the definition stays."""
        if self.installed:
            self.installed = False
            self.helm("uninstall", self.name, "--wait", "--timeout=120s")
            self.node.kubectl("delete", "namespace", self.namespace)

    def upgrade(self, to: str, *more: str) -> None:
        """Another image of the operator, or other values; wait until it is there."""
        self.helm("upgrade", self.name, str(CHART), *_image(to), *more, "--wait", "--timeout=120s")

    @contextmanager
    def upgraded(self, to: str, *more: str) -> Iterator[None]:
        """An upgrade for the time of the block, which a rollback ends."""
        try:
            self.upgrade(to, *more)
            yield
        finally:
            self.helm("rollback", self.name, "--wait", "--timeout=120s")

    def test(self) -> str:
        """`helm test`; what its pod printed. Raises RuntimeError with that where it fails."""
        return self.helm("test", self.name, "--timeout=180s", "--logs")

    def kill_pods(self) -> None:
        """SIGKILL to every pod of it. Others come in their place."""
        selector = "--selector=app.kubernetes.io/name=dtesn-operator"
        self.node.kubectl("delete", "pods", "--namespace", self.namespace, selector, "--force", "--grace-period=0")

    def helm(self, *arguments: str) -> str:
        """Helm in the release's namespace. Raises RuntimeError with what it said."""
        command = [str(binary("helm")), "--kubeconfig", str(self.node.kubeconfig), "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def _image(name: str) -> list[str]:
    repository, _, tag = name.rpartition(":")
    return [f"--set=image.repository={repository}", f"--set-string=image.tag={tag}"]
