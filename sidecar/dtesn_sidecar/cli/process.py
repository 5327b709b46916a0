"""`dtesn-sidecar process FILE...`: compute files on the command line, batched together, without a server.

Reading files and writing results lives here; formats are `model.inputs`, the computation is `model.reservoir`.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_sidecar.cli.progress import Progress
from dtesn_sidecar.config import load_configuration
from dtesn_sidecar.errors import DTESNError, InvalidInput
from dtesn_sidecar.model.backend import select_backend
from dtesn_sidecar.model.documents import MAX_NESTING, check_nesting
from dtesn_sidecar.model.featurise import featurise, reservoir_of
from dtesn_sidecar.model.inputs import INPUT_FORMATS, parse_input
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import echo_state_warning

SUFFIXES = {".json": "json", ".xml": "xml", ".csv": "series", ".tsv": "series"}
"""Suffix -> format; anything else is text."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `process` command, with `run` as its default `run`."""
    parser = subparsers.add_parser(
        "process",
        help="compute files and write their features",
        description="Compute files with the model and write the features [depth, 2, N] of each: per layer the state of the root and the "
        "mean state of all nodes. The files are batched together; a file that fails does not stop the others.",
        epilog="The format follows the suffix: .json (a tree where it has label or labels, else a document), .xml, .csv and .tsv (one "
        "row per step, one column per channel, a header line is skipped), all else "
        "text. Exit code: 0 all computed, 1 some failed, 2 wrong usage "
        "or configuration. Example: dtesn-sidecar process notes/*.txt --output npz --to features.npz",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="file to compute; - reads standard input")
    parser.add_argument("--format", choices=list(INPUT_FORMATS), help="format of every FILE, in place of the suffix")
    parser.add_argument("--output", choices=["json", "npz"], default="json", help="json (default): one document; npz: one array per FILE")
    parser.add_argument("--to", type=Path, metavar="PATH", help="where to write (default: standard output)")
    parser.add_argument("--depth", type=int, metavar="L", help="layers, in place of the configuration's")
    parser.add_argument("--size", type=int, metavar="N", help="units per layer, in place of the configuration's")
    parser.add_argument("--max-nodes", type=int, metavar="COUNT", help="nodes allowed per file, in place of the configuration's")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a DTESNBatcher manifest or its spec (default: all defaults)")
    parser.add_argument("--backend", choices=["auto", "numpy", "cupy"], help="where to compute, in place of the configuration's")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no warnings")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute the files of `args`; returns the exit code."""
    flags = {"model.membraneDepth": args.depth, "model.esnSize": args.size, "model.maxNodes": args.max_nodes, "backend": args.backend}
    try:
        spec = load_configuration(args.config, os.environ, flags).spec
        if args.output == "npz" and args.to is None and sys.stdout.isatty():
            raise InvalidInput("npz is no text for a terminal: name a file with --to, or redirect the output")
        with Progress(quiet=args.quiet) as progress:
            outcomes = _compute(args, spec, progress)
        _write(args, spec, outcomes)
    except SpecInvalid as error:
        for problem in error.problems:
            print(f"dtesn-sidecar: {problem.message}", file=sys.stderr)
        return 2
    except (DTESNError, OSError) as error:
        print(f"dtesn-sidecar: {error}", file=sys.stderr)
        return 2
    warning = echo_state_warning(spec.model, max(outcome.degree for outcome in outcomes))
    if warning is not None and not args.quiet:
        print(f"dtesn-sidecar: warning: {warning}", file=sys.stderr)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        words = outcome.error.strerror if isinstance(outcome.error, OSError) else outcome.error
        print(f"dtesn-sidecar: {outcome.name}: {words}", file=sys.stderr)
    return 1 if failed else 0


@dataclass(slots=True)
class _Outcome:
    name: str
    nodes: int = 0
    height: int = 0
    degree: int = 0
    features: NDArray[np.float32] | None = None
    error: Exception | None = None


def _compute(args: argparse.Namespace, spec: DTESNBatcherSpec, progress: Progress) -> list[_Outcome]:
    """All files in one run, which new files join as others finish, within the node budget of a batch."""
    model, backend = spec.model, select_backend(spec.backend)
    progress.phase("drawing weights", model.membrane_depth)
    reservoir = reservoir_of(model, backend, drawn=progress.done)
    outcomes = [_Outcome(name) for name in args.files]
    progress.phase("computing files", len(outcomes))
    for results in featurise(reservoir, _trees(outcomes, args.format, model.max_nodes), spec.batching.max_batch_nodes):
        for result in results:
            if isinstance(result.features, DTESNError):
                outcomes[result.id].error = result.features
            else:
                outcomes[result.id].features = result.features
        progress.reached(sum(outcome.features is not None or outcome.error is not None for outcome in outcomes))
    return outcomes


def _trees(outcomes: Sequence[_Outcome], input_format: str | None, max_nodes: int) -> Iterator[tuple[int, Tree]]:
    """The files that can be computed, each read when it is asked for; what cannot be read is an outcome at once."""
    for at, outcome in enumerate(outcomes):
        try:
            tree = read_file(outcome.name, input_format, max_nodes)
        except (DTESNError, OSError) as error:
            outcome.error = error
            continue
        outcome.nodes, outcome.height, outcome.degree = tree.nodes, tree.height, tree.degree
        yield at, tree


def read_file(name: str, input_format: str | None, max_nodes: int) -> Tree:
    """The tree of one file, or of standard input for `-`. Raises OSError or what `parse_input` raises."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    suffix = Path(name).suffix.lower()
    chosen = input_format or SUFFIXES.get(suffix, "text")
    content: object = data
    if chosen == "series" and suffix != ".json":
        content = read_csv(data)
    elif chosen in ("series", "tree", "json"):
        content = _read_json(data)
        is_tree = isinstance(content, dict) and bool({"label", "labels"} & content.keys())
        chosen = "tree" if is_tree and input_format is None else chosen
        if chosen == "json" and isinstance(content, str):
            content = data  # a lone JSON string is a document too, and parse_input takes strings for JSON text
    return parse_input(content, chosen, max_nodes=max_nodes, field=Path(name).name)


def _read_json(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        check_nesting(MAX_NESTING + 1, "the document")
        raise
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidInput(f"no JSON: {error}") from None


def read_csv(data: bytes) -> list[list[float]]:
    """Rows of numbers; a first line without any number is a header. Columns are separated by comma, semicolon or tab."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeError as error:
        raise InvalidInput(f"no valid UTF-8: {error}") from None
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in "\t;," if mark in first), ",")
    rows: list[list[float]] = []
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise InvalidInput(f"no CSV: {error}") from None
    for line, cells in enumerate(lines, start=1):
        if not cells:
            continue
        numbers = [_number(cell) for cell in cells]
        wrong = next((at for at, number in enumerate(numbers) if number is None), None)
        if wrong is None:
            rows.append([number for number in numbers if number is not None])
        elif rows or any(number is not None for number in numbers):
            raise InvalidInput(f"line {line}, column {wrong + 1} is {cells[wrong][:40]!a}, expected a number")
    return rows


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _write(args: argparse.Namespace, spec: DTESNBatcherSpec, outcomes: Sequence[_Outcome]) -> None:
    data = _npz(outcomes) if args.output == "npz" else _json(spec, outcomes)
    if args.to is not None:
        args.to.write_bytes(data)
        return
    out: IO[bytes] = sys.stdout.buffer
    out.write(data)
    out.flush()


def _npz(outcomes: Sequence[_Outcome]) -> bytes:
    arrays: dict[str, NDArray[np.float32]] = {}
    for outcome in outcomes:
        if outcome.features is not None:
            name, again = outcome.name, 2
            while name in arrays:
                name, again = f"{outcome.name} ({again})", again + 1
            arrays[name] = outcome.features
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # numpy.savez takes names as keywords: a file called "file" would break it
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _json(spec: DTESNBatcherSpec, outcomes: Sequence[_Outcome]) -> bytes:
    model = spec.model
    results: list[dict[str, object]] = []
    for outcome in outcomes:
        if outcome.features is None:
            code = outcome.error.code if isinstance(outcome.error, DTESNError) else "unreadable"
            results.append({"file": outcome.name, "error": {"code": code, "detail": str(outcome.error)}})
        else:
            shape, flat = list(outcome.features.shape), outcome.features.reshape(-1)
            results.append({"file": outcome.name, "nodes": outcome.nodes, "height": outcome.height, "shape": shape, "features": flat})
    head = {"name": model.name, "seed": model.seed, "membrane_depth": model.membrane_depth, "esn_size": model.esn_size}
    return orjson.dumps({"model": head, "results": results}, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
