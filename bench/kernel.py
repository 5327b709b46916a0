"""The kernel against the floor: node rates of the run on one BLAS thread, beside large matrix products of the same minute.

Every ratio comes from interleaved ABBA blocks: A, B, B, A, the ratio of the two sums; reported are the median over blocks and a
bootstrap 95 % interval of it. A target is met when the worse end meets it. Only products count as work: 2 N^2 (2 L - 1) operations per node
of a text, since layer 1 looks its label up. Prints a table and writes bench/out/kernel.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.results import environment
from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.backend import select_backend
from dtesn_sidecar.model.reservoir import Reservoir, RunItem
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import build_layers

FLOOR = 2048
LENGTH = 64
SIGMA = 0.6
Work = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """One comparison: the median of block ratios, its interval, and what is wanted of it."""

    name: str
    median: float
    low: float
    high: float
    target: float | None
    aim: float | None
    detail: str


def texts(lengths: Sequence[int], rng: np.random.Generator) -> list[Tree]:
    """Texts of these lengths in bytes."""
    return [Tree("byte", rng.integers(32, 127, length, dtype=np.uint8)) for length in lengths]


def mixed_lengths(count: int, rng: np.random.Generator) -> list[int]:
    """Log-normal lengths of mean LENGTH; SIGMA is the spread of the logarithm."""
    drawn = rng.lognormal(np.log(LENGTH) - SIGMA**2 / 2, SIGMA, count)
    return [max(1, round(length)) for length in drawn]


def compute(reservoir: Reservoir, trees: Sequence[Tree], budget_s: float) -> float:
    """Seconds per node of one run over these."""
    return compute_all(reservoir, [trees], budget_s)


def compute_all(reservoir: Reservoir, batches: Sequence[Sequence[Tree]], budget_s: float) -> float:
    """Seconds per node over these runs, one after the other."""
    start, nodes = time.perf_counter(), 0
    for trees in batches:
        run = reservoir.start()
        run.admit([RunItem(i, tree, reservoir.depth) for i, tree in enumerate(trees)])
        while run.active:
            run.advance(budget_s)
        nodes += run.nodes_done
    return (time.perf_counter() - start) / nodes


def compare(
    name: str, first: Work, second: Work, blocks: int, *, target: float | None = None, aim: float | None = None, detail: str = ""
) -> Ratio:
    """How many times as fast `second` is (both return seconds per unit of work)."""
    first(), second()
    ratios = []
    for _ in range(blocks):
        a, b, c, d = first(), second(), second(), first()
        ratios.append((a + d) / (b + c))
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, blocks)), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Ratio(name, float(np.median(ratios)), float(low), float(high), target, aim, detail)


def floor_on(backend: str) -> Work:
    """Seconds per operation of a large product where the backend computes."""
    rng = np.random.default_rng(1)
    if backend == "numpy":
        a = rng.standard_normal((FLOOR, FLOOR), dtype=np.float32)
        out = np.empty_like(a)

        def once() -> float:
            start = time.perf_counter()
            np.matmul(a, a, out)
            return (time.perf_counter() - start) / (2 * FLOOR**3)

        return once
    import cupy

    g = cupy.asarray(rng.standard_normal((FLOOR, FLOOR), dtype=np.float32))

    def once_there() -> float:
        start = time.perf_counter()
        for _ in range(20):
            g @ g
        cupy.cuda.Device().synchronize()
        return (time.perf_counter() - start) / (20 * 2 * FLOOR**3)

    return once_there


def measure(backend: str, config: ModelConfiguration, blocks: int, budget_s: float) -> list[Ratio]:
    """All comparisons on one backend."""
    rng = np.random.default_rng(7)
    place = select_backend("numpy" if backend == "numpy" else "cupy")
    n, depth = config.esn_size, config.membrane_depth
    dense = Reservoir(list(build_layers(config, depth, n)), config, place)
    thin_config = ModelConfiguration(esn_size=n, membrane_depth=depth, topology="sparse")
    sparse = Reservoir(list(build_layers(thin_config, depth, n)), thin_config, place)
    operations = 2 * n * n * (2 * depth - 1)
    equal = {count: texts([LENGTH] * count, rng) for count in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)}
    mixed = [texts(mixed_lengths(32, rng), rng) for _ in range(4)]

    def per_operation(trees: Sequence[Tree]) -> float:
        return compute(dense, trees, budget_s) / operations

    floor = floor_on(backend)
    found = [
        compare(
            f"equal lengths, {count} items, of the floor",
            floor,
            partial(per_operation, equal[count]),
            blocks,
            target=0.8 if count == 128 else None,
            aim=0.9 if count == 128 else None,
            detail=f"products of {FLOOR} x {FLOOR} in float32",
        )
        for count in (32, 128)
    ]
    found.append(
        compare(
            "equal lengths, 128 items, slices of 20 ms, of the floor",
            floor,
            lambda: compute(dense, equal[128], 0.02) / operations,
            blocks,
        )
    )
    found.append(
        compare(
            "mixed lengths, 32 items, of equal lengths",
            lambda: compute_all(dense, [equal[32]] * len(mixed), budget_s),
            lambda: compute_all(dense, mixed, budget_s),
            blocks,
            target=0.9,
            detail=f"log-normal, mean {LENGTH}, sigma {SIGMA}, {len(mixed)} draws: how long the longest is differs, and the rate with it",
        )
    )
    found.append(
        compare(
            "sparse topology, 32 items, of dense",
            lambda: compute(dense, equal[32], budget_s),
            lambda: compute(sparse, equal[32], budget_s),
            blocks,
            target=3.0,
        )
    )
    return found + [
        compare(
            f"{count} items together, of one at a time",
            lambda: compute(dense, equal[1], budget_s),
            partial(compute, dense, equal[count], budget_s),
            blocks,
            target=1.0,
        )
        for count in (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)
    ]


def show(backend: str, found: Sequence[Ratio], floor_gflops: float) -> None:
    """The table."""
    table = Table(title=f"Kernel on {backend}; the floor: {floor_gflops:.0f} GFLOP/s")
    for column in ("what", "ratio", "95 % interval", "target", "aim", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for ratio in found:
        met = "" if ratio.target is None else ("met" if ratio.low >= ratio.target else "missed")
        table.add_row(
            ratio.name,
            f"{ratio.median:.2f}",
            f"{ratio.low:.2f} .. {ratio.high:.2f}",
            "" if ratio.target is None else f"{ratio.target:g}",
            "" if ratio.aim is None else f"{ratio.aim:g}",
            met,
        )
    Console().print(table)


def main() -> int:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10, help="ABBA blocks for each comparison (default 10)")
    parser.add_argument("--esn-size", type=int, default=512, help="units per layer (default 512)")
    parser.add_argument("--depth", type=int, default=4, help="layers (default 4)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds per slice (default 10: a run is one slice)")
    parser.add_argument("--gpu", action="store_true", help="on CuPy too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "kernel.json", help="where the JSON goes")
    args = parser.parse_args()
    config = ModelConfiguration(esn_size=args.esn_size, membrane_depth=args.depth)
    report: dict[str, object] = {"esn_size": args.esn_size, "depth": args.depth, "blocks": args.blocks, "sigma": SIGMA}
    report["environment"] = environment()
    for backend in ("numpy", "cupy") if args.gpu else ("numpy",):
        floor = floor_on(backend)
        gflops = 1e-9 / min(floor() for _ in range(5))
        found = measure(backend, config, args.blocks, args.budget)
        show(backend, found, gflops)
        report[backend] = {"floor_gflops": gflops, "ratios": [asdict(ratio) for ratio in found]}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
