"""The operator as a process of its own, as `dtesn-operator run` makes it, but for the way from a pod to a URL, which a file gives.

    python -m tests.cluster.operator_process KUBECONFIG NAMES IDENTITY URLS     (NAMES: namespaces to follow, comma-separated, - for all)

URLS is a JSON file from pod names to base URLs; a pod that is not in it is silent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.processes import Daemon, free_port

from dtesn_operator import logs
from dtesn_operator.elector import Timing
from dtesn_operator.pods import Pod
from dtesn_operator.running import Settings, run

IMAGE = "registry.example/dtesn-batcher:1"
SILENT = "http://127.0.0.1:1"  # nothing listens there: the answer comes at once


@dataclass
class Replica:
    """A running operator."""

    daemon: Daemon
    port: int
    urls: Path

    def tell(self, **urls: str) -> None:
        """Where pods are reached from now on."""
        part = self.urls.with_suffix(".part")
        part.write_text(json.dumps(urls))
        part.rename(self.urls)

    def kill(self) -> None:
        """SIGKILL."""
        self.daemon.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        self.daemon.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.daemon.send(signal.SIGCONT)

    def log(self) -> str:
        """What it has logged."""
        return self.daemon.log.read_text(errors="replace")


@contextmanager
def replica(
    folder: Path,
    kubeconfig: Path,
    *,
    namespaces: Sequence[str] = (),
    lease_namespace: str,
    identity: str = "one",
    image: str = IMAGE,
    timing: Timing | None = None,
) -> Iterator[Replica]:
    """A replica that runs while the block does. It has begun to watch when the block begins. `timing`: of its lease."""
    port = free_port()
    urls = folder / f"{identity}.urls"
    urls.write_text("{}")
    arguments = [str(kubeconfig), ",".join(namespaces) or "-", identity, str(urls), lease_namespace, str(port), image]
    arguments += [json.dumps(asdict(timing or Timing()))]
    daemon = Daemon(
        f"operator-{identity}",
        [sys.executable, "-m", "tests.cluster.operator_process", *arguments],
        folder,
        {**os.environ, "KUBECONFIG": str(kubeconfig)},
    )
    try:
        daemon.until(lambda: '"message": "' + identity in daemon.log.read_text(errors="replace"))
        yield Replica(daemon, port, urls)
    finally:
        daemon.kill()  # how it ends by itself is for the tests to look at: it takes seconds


def main() -> None:
    """Run one."""
    kubeconfig, names, identity, urls, lease_namespace, port, image, timing = sys.argv[1:]

    def url_of(pod: Pod, _: int) -> str:
        return str(json.loads(Path(urls).read_text()).get(pod.name, SILENT))

    logs.set_up("info", "json")
    settings = Settings(
        image=image,
        namespace=lease_namespace,
        identity=identity,
        namespaces=() if names == "-" else tuple(names.split(",")),
        kubeconfig=Path(kubeconfig),
        host="127.0.0.1",
        port=int(port),
        timing=Timing(**json.loads(timing)),
        url_of=url_of,
    )
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
