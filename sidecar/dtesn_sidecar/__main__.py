"""The command line: `dtesn-sidecar COMMAND`. Each command is a module below `cli`, imported only when it is the one asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "serve": "serve over HTTP",
    "process": "compute files and write their features",
    "fit": "fit a readout to a data set",
    "evaluate": "score a readout on a data set",
    "drain": "begin the end of the server of this container",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="dtesn-sidecar",
        description="Deep Tree Echo State Networks, batched dynamically: as a server, or on files.",
        epilog="`dtesn-sidecar COMMAND --help` tells more of each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, words in COMMANDS.items():
        if given[:1] == [name]:
            import_module(f"dtesn_sidecar.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=words)
    parsed = parser.parse_args(given)
    status: int = parsed.run(parsed)
    return status


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"dtesn-sidecar {version('dtesn-batcher')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
