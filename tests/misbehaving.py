"""A worker process that misbehaves on request: started by tests in place of the real one, which has no such hooks.

The text of an item says what happens when its batch is computed: `die` (the process is killed), `hang` (it stops
for good), `memory` (MemoryError), `broken` (another exception), each for the batch as a whole; `poison` fails that item
alone. With a file and a number before it (FILE|N|what) it happens the first N times only, counted in the file.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMMAND = (sys.executable, "-P", str(Path(__file__)))


def misbehave(text: str) -> None:
    file, _, rest = text.partition("|")
    if rest:
        times, _, text = rest.partition("|")
        path = Path(file)
        done = len(path.read_bytes()) if path.exists() else 0
        if done >= int(times):
            return
        path.write_bytes(b"x" * (done + 1))
    if text.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("hang"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if text.startswith("memory"):
        raise MemoryError
    if text.startswith("broken"):
        raise RuntimeError("the device fell off")


def main(arguments: Sequence[str]) -> int:
    from dtesn_sidecar.compute import worker
    from dtesn_sidecar.model.reservoir import ReservoirRun, RunItem
    from dtesn_sidecar.model.trees import Tree

    real = ReservoirRun.admit

    def admit(run: ReservoirRun, items: Sequence[RunItem]) -> None:
        admitted: list[Any] = []
        for item in items:
            text = bytes(item.tree.labels).decode() if item.tree.kind == "byte" else ""
            misbehave(text)
            poisoned = RunItem(item.id, Tree("vector", np.array([[np.nan]])), item.depth)
            admitted.append(poisoned if text.startswith("poison") else item)
        real(run, admitted)

    setattr(ReservoirRun, "admit", admit)  # noqa: B010 - a method is replaced on purpose
    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
