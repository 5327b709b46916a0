"""The documents on the node: their commands as they stand there, one after the other, from the installation to the removal of all."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.build import binary
from tests.cluster.control_plane import until
from tests.node import image
from tests.node.node import Node
from tests.node.release import Release

ROOT = Path(__file__).resolve().parents[2]
NAME = "registry.example/dtesn-batcher:0.1.0"


@pytest.fixture
def shell(node: Node, release: Release, tmp_path: Path) -> Callable[[str], str]:
    """Runs a block of commands. The release of the other tests gives way to the document's."""
    release.remove()
    node.ctr("images", "tag", "--force", image.IMAGE, NAME)

    def run(block: str) -> str:
        folders = f"{binary('helm').parent}:{binary('kubectl').parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": folders, "KUBECONFIG": str(node.kubeconfig), "HOME": str(tmp_path)}
        done = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=280)
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        return done.stdout

    return run


def test_the_commands_of_the_documents_do_what_they_say(node: Node, shell: Callable[[str], str]) -> None:
    install, first, ask, change, upgrade, move, uninstall, remove = blocks("install.md", "run", "forwarded")
    (look,) = blocks("kubernetes.md", "run")
    assert "8 answers" in shell(install)
    said = shell(first)
    assert re.search(r"^text +True +2 ", said, re.MULTILINE), said
    with forwarded(node):
        assert json.loads(shell(ask.replace("curl", "curl --retry 9 --retry-connrefused")))["status"] == "success"
    assert re.search(r"Target Batch Size: +16$", shell(change), re.MULTILINE)
    node.kubectl("wait", "--namespace=shop", "--for=condition=Ready", "dtesnbatcher/text", "--timeout=60s")
    said = shell(look)
    for words in ("Ready=True Available: ", "Degraded=False AsExpected: ", '"requests_processed"', "dtesn_operator"):
        assert words in said, (words, said)
    said = shell(upgrade)
    assert len(re.findall(r"^text-\S+ +1/1 +Running +0 ", said, re.MULTILINE)) == 3, said
    assert shell(move) == "dtesnbatcher.dtesn.dev/text patched\n"
    said = shell(uninstall)
    assert len(re.findall(r"^pod/text-\S+ +1/1 +Running +0 ", said, re.MULTILINE)) == 3, said
    assert 'customresourcedefinition.apiextensions.k8s.io "dtesnbatchers.dtesn.dev" deleted' in shell(remove)
    until(lambda: node.kubectl("get", "namespace", "shop", check=False).returncode != 0, 60, what="the end of the namespace")


@contextmanager
def forwarded(node: Node) -> Iterator[None]:
    """The document's port forwarding, in the background."""
    (command,) = re.findall(r"`kubectl (port-forward [^`]+)`", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"))
    forwarding = [str(binary("kubectl")), "--kubeconfig", str(node.kubeconfig), *command.split()]
    with subprocess.Popen(forwarding, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def blocks(document: str, *kinds: str) -> list[str]:
    """The commands of a document that stand in blocks of these kinds."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return [block for kind, block in re.findall(r"```sh (\w+)\n(.*?)```", text, re.DOTALL) if kind in kinds]
