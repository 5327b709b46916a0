"""`dtesn-operator render`: what would be applied for a manifest, without a cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtesn_api.problems import Problem, SpecInvalid
    from dtesn_operator.kinds import Manifest

USAGE = """\
Print the objects that the operator would apply for each DTESNBatcher in FILE, as YAML in the order of applying. No cluster is
asked: optional kinds (of KEDA, of the Prometheus operator, of resource claims) are taken to be installed, and owner
references are there only where the manifest has a uid.
"""
EPILOG = """\
try it:
  dtesn-operator render batcher.yaml --namespace shop
  kubectl get dtesnbatcher demo -o yaml | dtesn-operator render -

exit status: 0, or 2 where a manifest is not valid (all that is wrong is listed).
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "render",
        help="print what would be applied for a manifest, without a cluster",
        description=USAGE,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="DTESNBatcher manifests, YAML or JSON, several documents; - is the input")
    parser.add_argument("--namespace", "-n", metavar="N", help="namespace of manifests that name none (default: default)")
    parser.add_argument(
        "--image",
        metavar="I",
        help="the sidecar's image where spec.image names none (default: $DTESN_SIDECAR_IMAGE, else dtesn-batcher:VERSION)",
    )
    parser.add_argument(
        "--operator-namespace",
        metavar="N",
        default="dtesn-system",
        help="where the operator runs, for NetworkPolicies (default: %(default)s)",
    )
    parser.add_argument(
        "--prometheus-namespace",
        metavar="N",
        action="append",
        default=[],
        help="where Prometheus runs, for NetworkPolicies; may be repeated",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the objects; the exit status."""
    from dtesn_api.names import ENV_OPERATOR_IMAGE
    from dtesn_api.problems import SpecInvalid
    from dtesn_operator.cli.manifests import located, read_batchers
    from dtesn_operator.desired import Cluster, desired
    from dtesn_operator.kinds import OWNED

    cluster = Cluster(
        operator_image=arguments.image or os.environ.get(ENV_OPERATOR_IMAGE) or own_image(),
        operator_namespace=arguments.operator_namespace,
        available=frozenset(kind for kind in OWNED if kind.optional),
        prometheus_namespaces=tuple(arguments.prometheus_namespace),
    )
    try:
        batchers = read_batchers(arguments.file, arguments.namespace)
    except SpecInvalid as error:
        return not_valid(error)
    objects: list[Manifest] = []
    found: list[Problem] = []
    for batcher in batchers:
        try:
            objects += desired(batcher, cluster).objects
        except SpecInvalid as error:
            found += [located(one, batcher.name) for one in error.problems] if len(batchers) > 1 else error.problems
    if found:
        return not_valid(SpecInvalid(found))
    print(to_yaml(objects), end="")
    return 0


def not_valid(error: SpecInvalid) -> int:
    """List what is wrong; the exit status."""
    print(f"dtesn-operator: the manifests are not valid ({len(error.problems)}):", file=sys.stderr)
    for one in error.problems:
        print(f"  {one.message}", file=sys.stderr)
    return 2


def to_yaml(objects: Sequence[Manifest]) -> str:
    """The objects as YAML documents, text of several lines as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, explicit_start=True, width=10_000)


def own_image() -> str:
    """The sidecar's image of this version, where nobody names one."""
    from importlib.metadata import version

    return f"dtesn-batcher:{version('dtesn-batcher')}"
