"""`dtesn-sidecar drain`: tell the server of this container that its end is near; for a preStop hook.

It finds the server by its run file and sends it SIGUSR1: readiness fails, requests are still served. It returns at
once. The SIGTERM that follows drains without the delay.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

USAGE = """\
Make the server of this container fail its readiness, while it goes on serving; returns at once. It is meant for a
preStop hook: the SIGTERM that follows then drains without the delay. The server is found by its run file, which is in
$XDG_RUNTIME_DIR/dtesn-sidecar, else in dtesn-sidecar-UID in the folder for temporary files.

exit status: 0 where the server was told, 1 where none runs, or several do and no port says which.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "drain",
        help="begin the end of the server of this container",
        description=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, metavar="P", help="the server's port; needed only where several run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Tell the server; the exit status."""
    from dtesn_sidecar import runfile

    try:
        where = runfile.folder(os.environ)
        if arguments.port is not None:
            server = runfile.server(where, arguments.port)
            running = {} if server is None else {arguments.port: server}
        else:
            running = runfile.servers(where)
        if len(running) != 1:
            print(f"dtesn-sidecar: {_wrong(arguments.port, sorted(running))}", file=sys.stderr)
            return 1
        os.kill(next(iter(running.values())), signal.SIGUSR1)
    except (OSError, ValueError) as error:
        print(f"dtesn-sidecar: the server cannot be told: {error}", file=sys.stderr)
        return 1
    return 0


def _wrong(port: int | None, running: list[int]) -> str:
    if running:
        return f"servers run at the ports {', '.join(map(str, running))}: name one with --port"
    return "no server runs" if port is None else f"no server runs at port {port}"
