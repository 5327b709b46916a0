"""`dtesn-sidecar serve`: the command line of the server. What it is made of is `app.py`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtesn_api.names import DEFAULT_PORT

if TYPE_CHECKING:
    from dtesn_api.problems import SpecInvalid
    from dtesn_sidecar.config import Configuration

# New objects between two looks for garbage. A thousand requests in the queue are 50,000 objects, all of them alive and none of them
# in a cycle; by Python's own 700 a fifth of this process went into looking at them under overload.
_GARBAGE: Final = (20_000, 10, 10)

USAGE = """\
Serve a Deep Tree Echo State Network over HTTP, batching requests dynamically.

FILE is a DTESNBatcher manifest, the very file that is applied to a cluster, or its spec alone; without FILE the
defaults hold. A setting is taken from the flag, else from the environment (DTESN_SECTION_FIELD, such as
DTESN_BATCHING_TARGET_BATCH_SIZE), else from FILE, else from the defaults. The sections batching and load are
followed while the server runs; GET /config shows what is in force.
"""
EPILOG = f"""\
try it:
  dtesn-sidecar serve --host 127.0.0.1 &
  curl -s localhost:{DEFAULT_PORT}/dtesn/process_with_batching -H 'Content-Type: application/json' -d '{{"input_data": "hello"}}'

signals:
  SIGTERM  drain and end: readiness fails at once, new requests are still served for sidecar.drainDelaySeconds, then
           the listener closes and everything accepted is answered
  SIGINT   the same without the delay
  SIGUSR1  readiness fails, requests are still served (what `dtesn-sidecar drain` sends)

exit status: 0 after a drain, 1 where it could not start, 2 where the configuration is not valid (all that is wrong with
it is listed).
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve", help="serve over HTTP", description=USAGE, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a DTESNBatcher manifest or its spec, YAML or JSON")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: %(default)s, every address)")  # noqa: S104
    parser.add_argument("--port", type=int, metavar="P", help=f"port; 0 takes a free one (default: sidecar.port, {DEFAULT_PORT})")
    parser.add_argument(
        "--grpc-port",
        type=_port,
        metavar="P",
        help="also serve the Open Inference Protocol over gRPC on this port, 0 takes a free one (default: none; needs the extra grpc)",
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    """A port, or 0 for any. No field of the spec checks it, and gRPC takes a number beyond the range for another within it."""
    if not (text.isascii() and text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text[:32]!r} is no port from 0 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it; the exit status."""
    from dtesn_api.problems import SpecInvalid
    from dtesn_sidecar.config import load_configuration

    port: int | None = arguments.port
    flags = {"sidecar.port": port} if port else {}  # 0 is no port of the spec: it means any
    try:
        configuration = load_configuration(arguments.config, os.environ, flags)
    except SpecInvalid as error:
        return _not_valid(error)
    from dtesn_sidecar.compute.process import spares

    spares.prepare(_children(configuration.spec.backend))  # they load their libraries while this process loads its own
    try:
        return _serve(arguments, configuration, flags)
    finally:
        spares.discard()


def _children(backend: str) -> list[int]:
    """The niceness of each child that a start with this backend wants: the builder of weights, then a worker per CPU."""
    from dtesn_sidecar import cgroup
    from dtesn_sidecar.compute.process import BUILDER_NICE, WORKER_NICE

    on_gpu = backend == "cupy" or (backend == "auto" and find_spec("cupy") is not None)
    return [BUILDER_NICE, *([] if on_gpu else [WORKER_NICE] * cgroup.whole_cpus())]


def _serve(arguments: argparse.Namespace, configuration: Configuration, flags: Mapping[str, object]) -> int:
    from dtesn_api.problems import SpecInvalid
    from dtesn_sidecar.app import Sidecar, new_loop
    from dtesn_sidecar.errors import DTESNError
    from dtesn_sidecar.logs import set_up

    logging_settings = configuration.spec.sidecar.logging
    set_up(logging_settings.level, logging_settings.format)

    gc.freeze()  # what was imported stays
    gc.set_threshold(*_GARBAGE)

    async def main() -> None:
        listen = configuration.spec.sidecar.port if arguments.port is None else arguments.port
        await Sidecar(configuration, os.environ, flags).run(arguments.host, listen, sys.stdout, grpc_port=arguments.grpc_port)

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    except SpecInvalid as error:  # the readout, which is read only now
        return _not_valid(error)
    except (DTESNError, OSError) as error:
        logging.getLogger(__name__).critical("the server could not start: %s", error)
        return 1
    return 0


def _not_valid(error: SpecInvalid) -> int:
    print(f"dtesn-sidecar: the configuration is not valid ({len(error.problems)}):", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem.message}", file=sys.stderr)
    return 2
