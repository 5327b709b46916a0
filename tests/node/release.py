"""The chart's release on the node."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cluster.build import binary
from tests.node import image
from tests.node.node import Node

CHART = Path(__file__).resolve().parents[2] / "charts" / "dtesn-batcher"


class Release:
    """The operator, as `helm install` makes it."""

    name = "dtesn"
    namespace = "dtesn-system"

    def __init__(self, node: Node) -> None:
        self.node = node

    def install(self) -> None:
        """Install it, and wait until its pods are Ready."""
        self.helm("install", self.name, str(CHART), *_image(image.IMAGE), "--wait", "--timeout=120s")

    def upgrade(self, to: str) -> None:
        """Another image of the operator; wait until it is there."""
        self.helm("upgrade", self.name, str(CHART), *_image(to), "--wait", "--timeout=120s")

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
