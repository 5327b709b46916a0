"""How soon `dtesn-sidecar serve` is ready, what each of its processes weighs before the first request, and what imports cost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from bench.results import ROOT, Part, Table, Target
from bench.section import Bench, arguments, main
from bench.stats import median_interval
from dtesn_sidecar.compute.process import BUILDER_NICE

MB = 1e6
READY_MS = 1500.0
RESIDENT_MB = 120.0
SERVE = (sys.executable, "-m", "dtesn_sidecar", "serve", "--host", "127.0.0.1", "--port", "0")
IMPORTS = ("", "dtesn_sidecar", "dtesn_sidecar.client", "dtesn_sidecar.app")


@dataclass(frozen=True)
class Weight:
    """One process: what it is, and its memory in MB; `pss` counts pages that several share once."""

    role: str
    rss: float
    pss: float


@dataclass(frozen=True)
class Start:
    """One start: milliseconds until it listened and until it was ready, and what its processes weighed then."""

    listening: float
    ready: float
    processes: Sequence[Weight]

    @property
    def largest(self) -> float:
        """Resident MB of the largest process."""
        return max(process.rss for process in self.processes)


def start_once() -> Start:
    """Start a server with all defaults, look at it once it is ready, and end it. No request is made."""
    began = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DTESN_")} | {"DTESN_BACKEND": "numpy"}
    with subprocess.Popen(
        SERVE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=environ, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            moments = []
            for word in (b"listening", b"ready"):
                line = process.stdout.readline()
                if not line.startswith(word):
                    raise RuntimeError(f"the sidecar ended before it was {word.decode()}; `dtesn-sidecar serve` says why")
                moments.append(1000 * (time.monotonic() - began))
            whole = psutil.Process(process.pid)
            return Start(moments[0], moments[1], [weight(whole, "main"), *(weight(child) for child in whole.children(recursive=True))])
        finally:
            process.terminate()


def weight(process: psutil.Process, role: str | None = None) -> Weight:
    """What a process weighs now. Workers and the builder of weights are the same program, told apart by their priority."""
    memory = process.memory_full_info()
    child = "worker" if process.nice() - psutil.Process().nice() < BUILDER_NICE else "builder"
    return Weight(role or child, memory.rss / MB, memory.pss / MB)


def import_ms(module: str) -> float:
    """Milliseconds of a Python that imports this and ends ("": nothing)."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {module}" if module else "pass"], check=True)
    return 1000 * (time.monotonic() - began)


async def startup(bench: Bench) -> Part:
    """At least ten starts, one after the other, after one that only fills the page cache."""
    count = int(bench.span(15, 3))
    bench.at("the first start, which does not count")
    await asyncio.to_thread(start_once)
    starts = []
    for number in range(count):
        bench.at(f"start {number + 1} of {count}")
        starts.append(await asyncio.to_thread(start_once))
    imports = {}
    for module in IMPORTS:
        bench.at(f"import {module}")
        imports[module] = median_interval([await asyncio.to_thread(import_ms, module) for _ in range(count)])
    listening, ready = (median_interval([getattr(start, name) for start in starts]) for name in ("listening", "ready"))
    largest = median_interval([start.largest for start in starts])
    rows = [
        ("listening (probes are answered)", f"{listening.median:.0f} ms", f"{listening.low:.0f} .. {listening.high:.0f} ms"),
        ("ready", f"{ready.median:.0f} ms", f"{ready.low:.0f} .. {ready.high:.0f} ms"),
        *(
            (
                f"python -c 'import {module}'" if module else "python -c pass",
                f"{each.median:.0f} ms",
                f"{each.low:.0f} .. {each.high:.0f} ms",
            )
            for module, each in imports.items()
        ),
    ]
    memory = []
    for role in dict.fromkeys(process.role for start in starts for process in start.processes):
        each = [process for start in starts for process in start.processes if process.role == role]
        resident = median_interval([process.rss for process in each])
        shared = median_interval([process.pss for process in each])
        memory.append((role, f"{resident.median:.0f} MB", f"{max(process.rss for process in each):.0f} MB", f"{shared.median:.0f} MB"))
    return Part(
        "startup",
        0,
        [
            Target.of("`dtesn-sidecar serve`: ready", ready, READY_MS, better="lower", unit="ms"),
            Target.of("its largest process before the first request, resident", largest, RESIDENT_MB, better="lower", unit="MB"),
        ],
        [
            Table(f"{count} starts with all defaults", ("", "median", "interval"), rows),
            Table("memory before the first request", ("process", "resident", "at most", "shared pages once"), memory),
        ],
        data={"listening_ms": [start.listening for start in starts], "ready_ms": [start.ready for start in starts]},
    )


PARTS = {"startup": (startup, "1 minute")}

if __name__ == "__main__":
    raise SystemExit(main("startup", arguments("startup", __doc__, PARTS), PARTS))
