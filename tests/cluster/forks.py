"""Operators that start in a moment: one process imports everything once, and forks for each start.

    with Forks.running(folder) as forks:
        pid = forks.start(kubeconfig=..., namespace="shop", urls="http://127.0.0.1:8000/shop")

A started operator follows one namespace, keeps its lease there under the same identity as the one before it, so that it need not
wait for that to end, and reaches a pod at `urls`/NAME. Whoever wants it to end kills it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.operator_process import IMAGE
from tests.cluster.processes import die_with_the_starter

from dtesn_operator import logs
from dtesn_operator.pods import Pod
from dtesn_operator.running import Settings, run


class Forks:
    """The process that forks. Each operator's log goes on in one file of its namespace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        command = [sys.executable, "-m", "tests.cluster.forks"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Forks]:
        """One for the block; operators that are left are killed with it."""
        forks = cls(folder)
        try:
            yield forks
        finally:
            forks._process.kill()
            forks._process.communicate()

    def start(self, *, kubeconfig: Path, namespace: str, urls: str) -> int:
        """A new operator; its process ID."""
        wanted = {"kubeconfig": str(kubeconfig), "namespace": namespace, "urls": urls, "log": str(self.log(namespace))}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            stdin.write(json.dumps(wanted).encode() + b"\n")
            stdin.flush()
            return int(stdout.readline())

    def log(self, namespace: str) -> Path:
        """The log of a namespace's operators."""
        return self._folder / f"{namespace}.log"


def main() -> None:
    """Fork for every line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _operator(**json.loads(line))
            os._exit(0)
        print(pid, flush=True)


def _operator(*, kubeconfig: str, namespace: str, urls: str, log: str) -> None:
    die_with_the_starter()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["KUBECONFIG"] = kubeconfig

    def url_of(pod: Pod, _: int) -> str:
        return f"{urls}/{pod.name}"

    logs.set_up("info", "json")
    settings = Settings(
        image=IMAGE,
        namespace=namespace,
        identity="one",
        namespaces=(namespace,),
        kubeconfig=Path(kubeconfig),
        host="127.0.0.1",
        port=0,
        url_of=url_of,
    )
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
