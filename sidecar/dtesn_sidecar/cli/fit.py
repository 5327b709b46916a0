"""`dtesn-sidecar fit DATA --to FILE`: fit a readout and write it. The mathematics is in `model.readout`, data sets in `datasets`."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from msgspec.structs import replace

from dtesn_sidecar.cli.datasets import read_dataset, targets_of
from dtesn_sidecar.cli.progress import Progress
from dtesn_sidecar.cli.readouts import DATA_HELP, add_data_arguments, columns_of, compute, figures, matrix, reported, table
from dtesn_sidecar.config import load_configuration
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout.fitting import ALPHAS, Fit, fit_readout, make_folds
from dtesn_sidecar.model.readout.store import model_section, save_readout
from dtesn_sidecar.model.readout.value import Readout
from dtesn_sidecar.model.weights import echo_state_warning

if TYPE_CHECKING:
    from dtesn_sidecar.cli.datasets import DataSet

DESCRIPTION = f"""\
Fit a readout: the linear layer that turns the features of the network into a prediction. Numbers are fitted by ridge regression, labels
by ridge regression on targets of +1 and -1, one column per label, whose outputs are calibrated to scores that sum to 1.

The regularisation, and of several --seeds the seed, are those with the least squared error on held-out samples: leave-one-out, or --folds.
Both are exact and cost one decomposition for all regularisations. The file (safetensors with a SHA-256) holds everything that
`dtesn-sidecar evaluate` and `serve` need to know; serve it with spec.model.readout.

{DATA_HELP}"""
EPILOG = """\
try it:
  dtesn-sidecar fit train.ts --to readout.safetensors --depth 1 --size 400 --seeds 1 2 3
  dtesn-sidecar evaluate readout.safetensors test.ts

exit status: 0 where the file was written, 2 where data, arguments or configuration are wrong (every bad row is named, up to 16).
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fit",
        help="fit a readout to a data set",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_arguments(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="where to write the readout (safetensors)")
    parser.add_argument(
        "--task",
        choices=["classification", "regression"],
        help="default: what DATA declares, else regression where all targets are numbers",
    )
    parser.add_argument("--depth", type=int, metavar="L", help="layers, in place of the configuration's")
    parser.add_argument("--size", type=int, metavar="N", help="units per layer, in place of the configuration's")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="seeds to choose from, in place of the configuration's one")
    parser.add_argument(
        "--alphas",
        type=float,
        nargs="+",
        default=list(ALPHAS),
        metavar="ALPHA",
        help="regularisations to choose from (default: 1e-8 ... 1e4)",
    )
    parser.add_argument("--folds", type=int, metavar="K", help="choose by K-fold cross-validation, in place of leave-one-out")
    parser.set_defaults(run=reported(run))


def run(args: argparse.Namespace) -> None:
    """Fit and write. Raises SpecInvalid, InvalidInput or OSError."""
    if not args.to.parent.is_dir():
        raise InvalidInput(
            f"--to is {args.to}, but there is no folder {args.to.parent}", field="--to", expected="a file in a folder that exists"
        )
    flags = {"model.membraneDepth": args.depth, "model.esnSize": args.size, "model.maxNodes": args.max_nodes, "backend": args.backend}
    spec = load_configuration(args.config, os.environ, flags).spec
    data = read_dataset(args.data, columns_of(args), spec.model.max_nodes)
    task = args.task or data.task
    targets = targets_of(data, task)
    classes = targets.classes if targets.labels is not None else [0] * len(data.trees)
    make_folds([targets.labels[number] if targets.labels is not None else 0 for number in classes], args.folds)  # before the long work
    seeds = list(dict.fromkeys(args.seeds or [spec.model.seed]))
    models = [replace(spec.model, seed=seed, readout=None) for seed in seeds]
    fits: list[Fit] = []
    with (
        Progress(quiet=args.quiet) as progress,
        matrix(len(data.trees), 2 * spec.model.membrane_depth * spec.model.esn_size) as room,
    ):
        for number, model in enumerate(models, start=1):
            title = f"seed {model.seed} ({number} of {len(models)})"
            features = compute(model, spec, data.trees, room, progress, title)
            progress.phase(f"{title}: fitting", 1)
            notes = {"data": args.data.name, "seeds_tried": seeds, "dtesn_batcher": version("dtesn-batcher")}
            fits.append(fit_readout(model, features, targets, alphas=args.alphas, folds=args.folds, notes=notes))
            progress.done(1)
    best = min(fits, key=lambda fit: fit.error)  # of equal ones the first
    digest = save_readout(best.readout, args.to)
    _tell(args, data, fits, best, digest)
    if not args.quiet:
        _warn(best, max(tree.degree for tree in data.trees))


def _tell(args: argparse.Namespace, data: DataSet, fits: list[Fit], best: Fit, digest: str) -> None:
    readout = best.readout
    kind = "regression" if readout.labels is None else "classification"
    if args.json:
        document: dict[str, Any] = {
            "file": str(args.to),
            "sha256": digest,
            "task": kind,
            "samples": len(data.trees),
            "labels": readout.labels,
            "model": model_section(readout.model),
            "notes": readout.notes,
            "sharpness": readout.sharpness,
            "seeds": [{"seed": fit.readout.model.seed, "alpha": fit.alpha, "error": fit.error, **fit.scores} for fit in fits],
            "alphas": [{"alpha": trial.alpha, "error": trial.error} for trial in best.trials],
        }
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    what = f"{len(readout.labels)} labels" if readout.labels is not None else f"{readout.outputs} target{'s'[: readout.outputs - 1]}"
    print(f"{kind} of {len(data.trees)} samples, {what}; chosen by {readout.notes['cross_validation']}")
    names = list(best.scores)
    rows = [[fit.readout.model.seed, fit.alpha, fit.error, *(fit.scores[name] for name in names)] for fit in fits]
    table("held out, by seed", ["seed", "alpha", "error", *(name.replace("_", " ") for name in names)], rows)
    table("the readout", ["", "held out"], [["seed", readout.model.seed], ["alpha", best.alpha], *figures(best.scores)])
    print(f"written to {args.to}, sha256 {digest}\n\nto serve it:\n{manifest(readout, args.to)}", end="")


def manifest(readout: Readout, path: Path) -> str:
    """The part of a spec that serves the readout, as YAML."""
    lines = [f"  {name}: {value}" for name, value in model_section(readout.model).items()]
    return "\n".join(["model:", *lines, f"  readout: {{path: {path.absolute()}}}", ""])


def _warn(best: Fit, degree: int) -> None:
    if best.at_edge:
        print(
            f"dtesn-sidecar: warning: the best alpha, {best.alpha:g}, is the last that was tried: a better one may lie beyond (--alphas)",
            file=sys.stderr,
        )
    if (words := echo_state_warning(best.readout.model, degree)) is not None:
        print(f"dtesn-sidecar: warning: {words}", file=sys.stderr)
