"""`dtesn-sidecar evaluate READOUT DATA`: how good a readout is on a data set, and what it predicts, as a server would answer."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import orjson
from msgspec.structs import replace

from dtesn_api.spec import DTESNBatcherSpec, ModelConfiguration
from dtesn_sidecar.cli.datasets import read_dataset, targets_of
from dtesn_sidecar.cli.progress import Progress
from dtesn_sidecar.cli.readouts import DATA_HELP, add_data_arguments, columns_of, compute, figures, matrix, reported, table
from dtesn_sidecar.config import load_configuration
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout.scoring import confusion, scores_of
from dtesn_sidecar.model.readout.store import load_readout
from dtesn_sidecar.outputs import predicted

_MOST_LABELS = 20

DESCRIPTION = f"""\
Score a readout on a data set with known targets, which it was not fitted to. The network is the one that the readout was fitted for; with
--config it must also be the one that is configured there, or the fields that differ are named.

{DATA_HELP}"""
EPILOG = """\
try it:
  dtesn-sidecar evaluate readout.safetensors test.csv --predictions predictions.jsonl

exit status: 0 where the scores were computed, 2 where the readout, data, arguments or configuration are wrong.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="score a readout on a data set",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("readout", type=Path, metavar="READOUT", help="a file written by `dtesn-sidecar fit`")
    add_data_arguments(parser)
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="write a JSON object per sample: prediction, and for classifiers scores"
    )
    parser.set_defaults(run=reported(run))


def run(args: argparse.Namespace) -> None:
    """Score and tell. Raises SpecInvalid, InvalidInput or OSError."""
    flags = {"model.maxNodes": args.max_nodes, "backend": args.backend}
    spec: DTESNBatcherSpec = load_configuration(args.config, os.environ, flags).spec
    readout = load_readout(args.readout, spec.model if args.config is not None else None)
    model: ModelConfiguration = replace(readout.model, max_nodes=spec.model.max_nodes)
    data = read_dataset(args.data, columns_of(args), model.max_nodes)
    targets = targets_of(data, "regression" if readout.labels is None else "classification", readout.labels)
    if targets.values.shape[1] != readout.outputs:
        given = targets.values.shape[1]
        raise InvalidInput(
            f"the data has {given} targets, the readout predicts {readout.outputs}: name them with --target, as they were fitted",
            field="--target",
            value=given,
            expected=f"{readout.outputs} targets",
        )
    with (
        Progress(quiet=args.quiet) as progress,
        matrix(len(data.trees), 2 * model.membrane_depth * model.esn_size) as room,
    ):
        features = compute(model, spec, data.trees, room, progress, "evaluating")
        values = np.array([readout.layer.apply(row) for row in features])
    scores = scores_of(readout, values, targets.values)
    if args.predictions is not None:
        with args.predictions.open("wb") as file:
            for value in values:
                prediction, by_label = predicted(readout, value)
                line = {"prediction": prediction} | ({} if by_label is None else {"scores": by_label})
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    if args.json:
        document = {"readout": str(args.readout), "sha256": readout.digest, "samples": len(data.trees), "scores": scores}
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    table(f"{len(data.trees)} samples of {args.data.name}", ["", "value"], figures(scores))
    if readout.labels is not None and len(readout.labels) <= _MOST_LABELS:
        counts = confusion(readout.labels, values, targets.values).tolist()
        rows = [[label, *row] for label, row in zip(readout.labels, counts, strict=True)]
        table("right label (rows) against prediction (columns)", ["", *readout.labels], rows)
