"""The tests on a real node: `python -m tests.node [PYTEST ARGUMENTS]` (make e2e).

Builds what is missing, then runs pytest, and with it the whole cluster, in namespaces of their own for network, mounts and
processes. Nothing reaches the machine's network, and when pytest ends, everything has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.build import MissingPrerequisite, binary, say
from tests.node import gpu, image, machine, namespaces
from tests.node.programs import ALL, program

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok", "helm")
INSIDE = "--inside"


def main() -> int:
    """Run the tests; pytest's exit status, or 1 where this machine cannot."""
    arguments = sys.argv[1:]
    if arguments[:1] == [INSIDE]:
        return namespaces.run([sys.executable, "-m", "pytest", "tests/node", *arguments[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        machine.check()
        environment = {**os.environ, **_prepared()}
    except MissingPrerequisite as error:
        print(f"node: {error}", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="dtesn-node-") as folder,
        machine.kernel_settings(),
        machine.cgroup(f"dtesn-node-{os.getpid()}") as group,
    ):
        return _inside(arguments, {**environment, "DTESN_NODE_CGROUP": group, "DTESN_NODE_FOLDER": folder})


def _prepared() -> dict[str, str]:
    """Everything that needs the network, which the namespaces do not have. What came of it, as environment variables."""
    began = time.monotonic()
    for name in CONTROL_PLANE:
        binary(name)
    for module in ALL:
        for name in module.programs:
            program(name)
    archives, packages = image.archives(), gpu.resolved()
    say(f"programs and images are there after {time.monotonic() - began:.0f} s")
    return {"DTESN_NODE_IMAGES": os.pathsep.join(map(str, archives)), "DTESN_NODE_GPU": str(packages)}


def _inside(arguments: list[str], environment: dict[str, str]) -> int:
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "tests.node", INSIDE, *arguments]
    child = subprocess.Popen(command, env=environment, cwd=Path(__file__).resolve().parents[2])
    try:
        return child.wait()
    except KeyboardInterrupt:  # pytest had it too, and ends by itself
        return child.wait()
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    raise SystemExit(main())
