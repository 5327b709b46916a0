"""The sidecar with compute that fails on purpose, for bench/faults.py. The product has no switch for this: the worker's
program is replaced from outside.

    python -m bench.faulty serve ...     the sidecar, its workers being:
    python -m bench.faulty worker ...    a compute worker whose runs fail as BENCH_FAULT says
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any, Final

FAULT: Final = "BENCH_FAULT"
POISON: Final = "\u2620 poisoned"  # a run with a text that holds this fails as a whole
EVERY: Final = 4  # with `memory`, every fourth run of several items has none


def failing(drive: Callable[..., Any], fault: str) -> Callable[..., Any]:
    """`drive`, which computes a run, with the fault."""
    runs = itertools.count(1)
    mark = POISON.encode()

    def instead(reservoir: Any, tasks: Any, *rest: Any, **named: Any) -> Any:
        if fault == "poison" and any(mark in task.tree.labels.tobytes() for task in tasks):
            raise RuntimeError("a poisoned item")
        if fault == "memory" and len(tasks) > 1 and next(runs) % EVERY == 0:
            raise MemoryError
        return drive(reservoir, tasks, *rest, **named)

    return instead


def main() -> int:
    """Either half."""
    if sys.argv[1] == "worker":
        from dtesn_sidecar.compute import drive, worker

        drive.drive = failing(drive.drive, os.environ[FAULT])
        return worker.main(sys.argv[2:])
    from dtesn_sidecar.__main__ import main as serve
    from dtesn_sidecar.processor import DTESNProcessor

    defaults = DTESNProcessor.__init__.__kwdefaults__
    assert defaults is not None
    defaults["worker_command"] = (sys.executable, "-m", "bench.faulty", "worker")
    return serve()


if __name__ == "__main__":
    raise SystemExit(main())
