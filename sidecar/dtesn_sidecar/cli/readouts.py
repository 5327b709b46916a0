"""What `fit` and `evaluate` share: the arguments that name data, features in bounded memory, figures as a table or as JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dtesn_api.problems import SpecInvalid
from dtesn_sidecar.cli.dataset_files import FORMATS
from dtesn_sidecar.cli.dataset_rows import Columns
from dtesn_sidecar.errors import DTESNError
from dtesn_sidecar.model.backend import select_backend
from dtesn_sidecar.model.featurise import feature_matrix, reservoir_of
from dtesn_sidecar.model.inputs import INPUT_FORMATS

if TYPE_CHECKING:
    from dtesn_api.spec import DTESNBatcherSpec, ModelConfiguration
    from dtesn_sidecar.cli.progress import Progress
    from dtesn_sidecar.model.trees import Tree

IN_MEMORY: Final = 1 << 30
"""Bytes of features beyond which they are kept in a temporary file and read in blocks."""

DATA_HELP: Final = f"""\
DATA is a file whose name ends in {FORMATS}:
  .csv, .tsv   a header, then a sample per line. The columns beside the target are one series of one channel (empty cells at its end make
               it shorter), or, where it is a single column of words or --input names one, the input itself: a text, or what
               --input-format says
  .jsonl       an object per line with input_data (as in a request) and target
  .npz         arrays X (numbers [n, T] or [n, T, d], or texts [n]) and y; lengths [n] where the series are padded
  .ts          of the UEA and UCR archives, without time stamps and missing values
"""


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what in DATA is what, and where to compute."""
    parser.add_argument("data", type=Path, metavar="DATA", help="the data set")
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="column, key or array to predict; again for several numbers at once"
    )
    parser.add_argument("--input", metavar="NAME", help="column, key or array with the input")
    parser.add_argument(
        "--input-format", choices=["auto", *INPUT_FORMATS], default="auto", help="how inputs are read (default: %(default)s)"
    )
    parser.add_argument("--max-nodes", type=int, metavar="COUNT", help="nodes allowed per sample, in place of the configuration's")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a DTESNBatcher manifest or its spec (default: all defaults)")
    parser.add_argument("--backend", choices=["auto", "numpy", "cupy"], help="where to compute, in place of the configuration's")
    parser.add_argument("--json", action="store_true", help="print one JSON document in place of tables")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no warnings")


def columns_of(args: argparse.Namespace) -> Columns:
    """What the arguments say about DATA."""
    return Columns(tuple(args.target), args.input, args.input_format)


@contextmanager
def matrix(samples: int, width: int) -> Iterator[NDArray[np.float32]]:
    """Room for features [samples, width]: in memory, or in a temporary file that is gone afterwards."""
    if 4 * samples * width <= IN_MEMORY:
        yield np.empty((samples, width), dtype=np.float32)
        return
    with tempfile.TemporaryFile(prefix="dtesn-features-") as file:
        yield np.memmap(file, dtype=np.float32, mode="w+", shape=(samples, width))


def compute(
    model: ModelConfiguration, spec: DTESNBatcherSpec, trees: Sequence[Tree], out: NDArray[np.float32], progress: Progress, title: str
) -> NDArray[np.float32]:
    """The features of all trees, computed together within the node budget of a batch."""
    progress.phase(f"{title}: drawing weights", model.membrane_depth)
    reservoir = reservoir_of(model, select_backend(spec.backend), drawn=progress.done)
    progress.phase(f"{title}: computing samples", len(trees))
    feature_matrix(reservoir, trees, out, max_nodes=spec.batching.max_batch_nodes, done=progress.done)
    return out


def reported(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    """The command with what is wrong told on standard error: exit status 0, or 2 with every problem named."""

    def run(args: argparse.Namespace) -> int:
        try:
            command(args)
        except SpecInvalid as error:
            for problem in error.problems:
                print(f"dtesn-sidecar: {problem.message}", file=sys.stderr)
            return 2
        except (DTESNError, OSError) as error:
            print(f"dtesn-sidecar: {error}", file=sys.stderr)
            return 2
        return 0

    return run


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers to the right and in five digits."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        drawn.add_column(name, justify="right" if rows and not isinstance(rows[0][number], str) else "left")
    for row in rows:
        drawn.add_row(*(f"{value:.5g}" if isinstance(value, float) else str(value) for value in row))
    console = Console(highlight=False)
    console.print(title, soft_wrap=True)  # above the table and not in it, where a long one would be broken to a narrow table's width
    console.print(drawn)


def figures(scores: dict[str, float]) -> list[list[Any]]:
    """The rows of a table of scores."""
    return [[name.replace("_", " "), value] for name, value in scores.items()]
