"""`dtesn-operator check`: whether an installed system serves. What it does is `trial.py`; `helm test` runs it in a pod."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

USAGE = """\
Make a small DTESNBatcher, wait until it is Ready, send it requests through its Service, compare the answers, and remove it.

To be run within the cluster, where the Service's name leads somewhere. The user needs to create, get and delete DTESNBatchers in
the namespace, and where the chart's admission policy is on, to create Deployments.
"""
EPILOG = """\
try it:
  helm test dtesn --namespace dtesn-system --logs
  dtesn-operator check --namespace shop

exit status: 0 where all is well, 1 where something is not (and what), 2 where arguments are missing.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="make a small resource, ask it, remove it",
        description=USAGE,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--namespace", "-n", metavar="N", required=True, help="where the resource is made")
    parser.add_argument("--timeout", type=float, metavar="S", default=180.0, help="seconds for all of it (default: %(default)g)")
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="how to reach the API server (default: the pod's own way, else $KUBECONFIG)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the trial; the exit status."""
    import asyncio
    from uuid import uuid4

    import aiohttp

    from dtesn_operator import logs
    from dtesn_operator.client import connected
    from dtesn_operator.errors import OperatorError
    from dtesn_operator.kinds import DTESN_BATCHER, ObjectKey
    from dtesn_operator.trial import trial

    async def all_of_it() -> None:
        key = ObjectKey(DTESN_BATCHER, arguments.namespace, f"check-{uuid4().hex[:8]}")
        async with connected(arguments.kubeconfig) as client, aiohttp.ClientSession(trust_env=True) as session:
            await trial(client, session, key, arguments.timeout)

    logs.set_up("info", "text")
    try:
        asyncio.run(all_of_it())
    except OperatorError as error:
        print(f"dtesn-operator: {error}", file=sys.stderr)
        return 1
    return 0
