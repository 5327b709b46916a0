"""A test cluster for people: `python -m tests.cluster up|down|status|build` (make cluster-up, make cluster-down).

`up` leaves a control plane running on loopback (etcd, API server, controllers, scheduler, fake nodes of kwok) with the DTESNBatcher
resource installed, and prints the line that points kubectl at it. `down` ends it and removes what it stored. `build` makes sure that
all programs of the tests are there: no test's time then goes into that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.build import ALL, MissingPrerequisite, binary, cache_folder
from tests.cluster.control_plane import CRDS, ControlPlane


def main() -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("up", "down", "status", "build", "serve"), help="serve: as up, in the foreground, until Ctrl-C")
    command = parser.parse_args().command
    try:
        return {"up": up, "down": down, "status": status, "build": build, "serve": serve}[command]()
    except MissingPrerequisite as error:
        print(f"test cluster: {error}", file=sys.stderr)
        return 1


def folder() -> Path:
    """Where the people's cluster keeps its state."""
    return cache_folder() / "running"


def up() -> int:
    """Start one in the background, unless it is running."""
    if running() is None:
        shutil.rmtree(folder(), ignore_errors=True)
        folder().mkdir(parents=True)
        for program in ("etcd", "kube-apiserver", "kwok", "kubectl"):
            binary(program)  # so that what takes long is seen
        with (folder() / "serve.log").open("wb") as log:
            command = [sys.executable, "-m", "tests.cluster", "serve"]
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        while not (folder() / "ready").exists():
            if server.poll() is not None:
                print((folder() / "serve.log").read_text(), file=sys.stderr)
                return 1
            time.sleep(0.1)
    return status()


def build() -> int:
    """Build every program that is not there yet."""
    for module in ALL:
        for program in module.programs:
            binary(program)
    return 0


def serve() -> int:
    """Run one until SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder().mkdir(parents=True, exist_ok=True)
    (folder() / "pid").write_text(str(os.getpid()))
    try:
        with ControlPlane.started(folder(), first=CRDS) as plane:
            (folder() / "ready").touch()
            print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        (folder() / "pid").unlink()
    return 0


def down() -> int:
    """End it."""
    pid = running()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        while running() is not None:
            time.sleep(0.1)
    shutil.rmtree(folder(), ignore_errors=True)
    return 0


def status() -> int:
    """Say whether one is running, and how to reach it; 1 where none is."""
    if running() is None:
        print("no test cluster is running; start one: make cluster-up")
        return 1
    print(f"export KUBECONFIG={folder() / 'admin.kubeconfig'}")
    print(f"export PATH={binary('kubectl').parent}:{binary('helm').parent}:$PATH")
    return 0


def running() -> int | None:
    """The process ID of the cluster's supervisor, if it lives."""
    try:
        pid = int((folder() / "pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


if __name__ == "__main__":
    raise SystemExit(main())
