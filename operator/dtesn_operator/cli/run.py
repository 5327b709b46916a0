"""`dtesn-operator run`: the command line of the operator. What it is made of is `running.py`."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

USAGE = """\
Reconcile DTESNBatchers: make the ServiceAccount, ConfigMap, Deployment, Service and whatever else each asks for, and keep them so.

Without --namespace every namespace is followed. Of several replicas one works, elected by a Lease in the operator's own namespace.
In a pod its ServiceAccount is used; elsewhere a kubeconfig.
"""
EPILOG = """\
try it:
  kubectl apply -f crds/
  dtesn-operator run --kubeconfig ~/.kube/config --image registry.example/dtesn-batcher:0.1.0
  kubectl apply -f examples/dtesnbatcher.yaml

HTTP: /healthz, /readyz and /metrics on --port.
exit status: 0 after a signal, 1 where there is no way to an API server.
"""
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="reconcile the DTESNBatchers of a cluster or of some namespaces",
        description=USAGE,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--namespace", "-n", metavar="N", action="append", default=[], help="follow this namespace; may be repeated (default: all)"
    )
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="how to reach the API server (default: the pod's own way, else $KUBECONFIG)"
    )
    parser.add_argument("--image", metavar="I", help="the sidecar's image where a resource names none (default: $DTESN_SIDECAR_IMAGE)")
    parser.add_argument(
        "--operator-namespace", metavar="N", help="where the lease is kept (default: the pod's namespace, else dtesn-system)"
    )
    parser.add_argument(
        "--prometheus-namespace",
        metavar="N",
        action="append",
        default=[],
        help="where Prometheus runs, for NetworkPolicies; may be repeated",
    )
    parser.add_argument(
        "--identity", metavar="ID", default=socket.gethostname(), help="name of this replica (default: the host's, %(default)s)"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address of health and metrics (default: %(default)s)")  # noqa: S104
    parser.add_argument(
        "--port", type=int, metavar="P", default=8081, help="port of health and metrics, 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="least level written (default: %(default)s)"
    )
    parser.add_argument("--log-format", choices=("json", "text"), default="json", help="form of the log (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the operator; the exit status."""
    from dtesn_api.names import ENV_OPERATOR_IMAGE

    image = arguments.image or os.environ.get(ENV_OPERATOR_IMAGE)
    if not image:
        print(f"dtesn-operator: the sidecar's image is not given; use --image or set {ENV_OPERATOR_IMAGE}", file=sys.stderr)
        return 2
    if arguments.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(arguments.kubeconfig)  # which kopf reads
    import uvloop

    from dtesn_operator import logs
    from dtesn_operator.errors import NotConfigured
    from dtesn_operator.running import Settings
    from dtesn_operator.running import run as running

    logs.set_up(arguments.log_level, arguments.log_format)
    settings = Settings(
        image=image,
        namespace=arguments.operator_namespace or _own_namespace(),
        identity=arguments.identity,
        namespaces=tuple(arguments.namespace),
        prometheus_namespaces=tuple(arguments.prometheus_namespace),
        kubeconfig=arguments.kubeconfig,
        host=arguments.host,
        port=arguments.port,
    )
    try:
        uvloop.run(running(settings))
    except NotConfigured as error:
        print(f"dtesn-operator: {error}", file=sys.stderr)
        return 1
    return 0


def _own_namespace() -> str:
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return "dtesn-system"
