"""The command line: `dtesn-operator COMMAND`. Each command is a module below `cli`, imported only when it is the one asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": "reconcile the DTESNBatchers of a cluster or of some namespaces",
    "render": "print what would be applied for a manifest, without a cluster",
    "plan": "show how what is in a cluster differs from what a manifest asks for",
    "check": "make a small resource, ask it, remove it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="dtesn-operator",
        description="Makes the pods and Services that DTESNBatcher resources ask for, and keeps them so.",
        epilog="`dtesn-operator COMMAND --help` tells more of each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, words in COMMANDS.items():
        if given[:1] == [name]:
            import_module(f"dtesn_operator.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=words)
    parsed = parser.parse_args(given)
    status: int = parsed.run(parsed)
    return status


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"dtesn-operator {version('dtesn-batcher')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
