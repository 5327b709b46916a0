"""`dtesn-operator plan`: how what is in a cluster differs from what a manifest asks for. Nothing is changed."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dtesn_operator.errors import ApiFailed
    from dtesn_operator.kinds import Manifest
    from dtesn_operator.preview import Preview

USAGE = """\
Show what the operator would do in a cluster if FILE were applied: of each DTESNBatcher in it and of every object that it owns what
would be created, changed, deleted or left, field by field. Nothing is changed.

The API server is asked what it would make of the resource (a dry run), so that its refusals are seen here and what
others have set, such as the replicas of an autoscaler, stays. Objects that somebody edited or deleted by hand show up too: the same
command with the file that is already applied tells what the operator is about to repair.
"""
EPILOG = """\
signs:
  +  would be created                       -  would be deleted
  ~  would be changed, with each field      =  is as it should be
  !  stands there and is not the resource's: it would be left alone, and the resource Degraded
  .  would come later: after another one has gone, or after a name has become free

try it:
  dtesn-operator plan batcher.yaml
  dtesn-operator plan batcher.yaml --context staging --namespace shop
  kubectl get dtesnbatcher demo -o yaml | dtesn-operator plan -          what is about to be repaired
  dtesn-operator plan batcher.yaml --detailed-exitcode --quiet || echo "not what is in the file"
  dtesn-operator plan batcher.yaml --output json | jq '.resources[].objects[] | select(.action != "keep")'

rights: get and list on what is owned, and those of whoever applies FILE (create and patch on dtesnbatchers).

exit status:
  0  there is a plan; with --detailed-exitcode: nothing would change
  1  a manifest is not valid, the API server refuses it or cannot be asked, or a resource would be Degraded
  2  with --detailed-exitcode: something would change
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "plan",
        help="show how what is in a cluster differs from what a manifest asks for",
        description=USAGE,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="DTESNBatcher manifests, YAML or JSON, several documents; - is the input")
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="how to reach the API server (default: $KUBECONFIG, else ~/.kube/config)"
    )
    cluster.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: its current one)")
    cluster.add_argument("--namespace", "-n", metavar="N", help="namespace of manifests that name none (default: the context's)")
    cluster.add_argument(
        "--field-manager", metavar="M", default="kubectl", help="who applies FILE: what this one set before goes (default: %(default)s)"
    )
    operator = parser.add_argument_group("operator", "As the operator in the cluster is run.")
    operator.add_argument(
        "--image",
        metavar="I",
        help="the sidecar's image of new resources that name none (default: $DTESN_SIDECAR_IMAGE, else dtesn-batcher:VERSION)",
    )
    operator.add_argument(
        "--operator-namespace",
        metavar="N",
        default="dtesn-system",
        help="where the operator runs, for NetworkPolicies (default: %(default)s)",
    )
    operator.add_argument(
        "--prometheus-namespace",
        metavar="N",
        action="append",
        default=[],
        help="where Prometheus runs, for NetworkPolicies; may be repeated",
    )
    shown = parser.add_argument_group("output")
    shown.add_argument("--output", "-o", choices=("text", "json"), default="text", help="for people or for programs (default: %(default)s)")
    shown.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")
    shown.add_argument("--detailed-exitcode", action="store_true", help="exit with 2 where something would change")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; the exit status."""
    import asyncio

    from dtesn_api.problems import SpecInvalid
    from dtesn_operator.cli.manifests import read_manifests
    from dtesn_operator.cli.preview_text import print_json, print_text
    from dtesn_operator.cli.render import not_valid
    from dtesn_operator.client import context_namespace
    from dtesn_operator.errors import ApiFailed, ApiUnreachable, NotConfigured

    try:
        namespace = arguments.namespace or context_namespace(arguments.kubeconfig, arguments.context)
        manifests = read_manifests(arguments.file, namespace)
        previews = asyncio.run(_previews(arguments, manifests))
    except SpecInvalid as error:
        not_valid(error)
        return 1
    except NotConfigured as error:
        return _failed(str(error))
    except ApiUnreachable as error:
        return _failed(
            f"the API server does not answer ({error}); is it running, and is it the one you mean? `kubectl config get-contexts` tells"
        )
    except ApiFailed as error:
        return _failed(_advice(error))
    if not arguments.quiet:
        print_json(previews) if arguments.output == "json" else print_text(previews)
    if any(one.troubles for one in previews):
        return 1
    return 2 if arguments.detailed_exitcode and any(one.changes for one in previews) else 0


async def _previews(arguments: argparse.Namespace, manifests: Sequence[Manifest]) -> list[Preview]:
    from dtesn_api.names import ENV_OPERATOR_IMAGE
    from dtesn_operator.cli.render import own_image
    from dtesn_operator.client import connected
    from dtesn_operator.desired import Cluster
    from dtesn_operator.errors import NotConfigured
    from dtesn_operator.kinds import DTESN_BATCHER
    from dtesn_operator.preview import optional_kinds, preview

    async with connected(arguments.kubeconfig, arguments.context) as client:
        if not await client.serves(DTESN_BATCHER):
            raise NotConfigured(
                f"the cluster has no {DTESN_BATCHER.kind} ({DTESN_BATCHER.api_version}); install the chart, or `kubectl apply -f crds/`"
            )
        cluster = Cluster(
            operator_image=arguments.image or os.environ.get(ENV_OPERATOR_IMAGE) or own_image(),
            operator_namespace=arguments.operator_namespace,
            available=await optional_kinds(client),
            prometheus_namespaces=tuple(arguments.prometheus_namespace),
        )
        return [await preview(client, manifest, cluster, arguments.field_manager) for manifest in manifests]


def _advice(error: ApiFailed) -> str:
    """What the API server said, and what to do about it."""
    said = error.said or str(error)
    match error.status:
        case 401:
            return f"the API server does not know you ({said}); the credentials have ended or are for another cluster: log in again"
        case 403:
            return f"not allowed: {said}; ask for this right (`dtesn-operator plan --help` lists those that are needed), or for the plan"
        case 404 if "namespaces" in said:
            return f"{said}; create it first (`kubectl create namespace`), or give another with --namespace"
        case 400 | 422:
            return f"the API server refuses the resource, and would when it is applied: {said}"
        case _:
            return f"the API server cannot answer now ({error.status}: {said}); try again"


def _failed(words: str) -> int:
    print(f"dtesn-operator: {words}", file=sys.stderr)
    return 1
