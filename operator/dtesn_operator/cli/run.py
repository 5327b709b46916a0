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
exit status: 0 after a signal, 1 where there is no way to an API server, 2 where arguments are missing or do not go together.
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
        "--operator-namespace", metavar="N", help="where the lease is kept (default: $POD_NAMESPACE, else the pod's own, else dtesn-system)"
    )
    parser.add_argument("--lease", metavar="NAME", default="dtesn-operator", help="the Lease of the election (default: %(default)s)")
    parser.add_argument("--identity", metavar="ID", help="name of this replica (default: $POD_NAME, else the host's)")
    parser.add_argument(
        "--prometheus-namespace",
        metavar="N",
        action="append",
        default=[],
        help="where Prometheus runs, for NetworkPolicies; may be repeated",
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: %(default)s)")  # noqa: S104 - probes come from the node
    parser.add_argument(
        "--port", type=int, metavar="P", default=8080, help="port of health and metrics, 0 takes a free one (default: %(default)s)"
    )
    webhook = parser.add_argument_group("injection", "Serve the webhook that puts the sidecar into pods labelled dtesn.dev/inject=NAME.")
    webhook.add_argument("--webhook-port", type=int, metavar="P", help="port of the webhook, over TLS (default: it is not served)")
    webhook.add_argument(
        "--webhook-certificates", type=Path, metavar="FOLDER", help="tls.crt and tls.key that somebody else renews, such as cert-manager"
    )
    webhook.add_argument("--webhook-service", metavar="NAME", help="without a folder: the Service that the certificates are made out to")
    webhook.add_argument("--webhook-configuration", metavar="NAME", help="the MutatingWebhookConfiguration that is to trust them")
    webhook.add_argument("--webhook-secret", metavar="NAME", help="the Secret in which all replicas keep them")
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
    if trouble := _webhook_trouble(arguments):
        print(f"dtesn-operator: {trouble}", file=sys.stderr)
        return 2
    if arguments.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(arguments.kubeconfig)  # which kopf reads
    import uvloop

    from dtesn_operator import logs
    from dtesn_operator.errors import NotConfigured
    from dtesn_operator.running import Settings, WebhookSettings
    from dtesn_operator.running import run as running

    logs.set_up(arguments.log_level, arguments.log_format)
    webhook = WebhookSettings(
        port=arguments.webhook_port or 0,
        folder=arguments.webhook_certificates,
        service=arguments.webhook_service or "",
        configuration=arguments.webhook_configuration or "",
        secret=arguments.webhook_secret or "",
    )
    settings = Settings(
        image=image,
        namespace=arguments.operator_namespace or os.environ.get("POD_NAMESPACE") or _own_namespace(),
        identity=arguments.identity or os.environ.get("POD_NAME") or socket.gethostname(),
        lease=arguments.lease,
        webhook=webhook if arguments.webhook_port is not None else None,
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


def _webhook_trouble(arguments: argparse.Namespace) -> str:
    """What does not go together, in words, or nothing."""
    own = {name: getattr(arguments, f"webhook_{name}") for name in ("service", "configuration", "secret")}
    given = [f"--webhook-{name}" for name, value in own.items() if value]
    if arguments.webhook_port is None:
        folder = ["--webhook-certificates"] if arguments.webhook_certificates else []
        return f"{(given + folder)[0]} without --webhook-port: the webhook would not be served" if given or folder else ""
    if arguments.webhook_certificates is not None:
        return f"{given[0]} beside --webhook-certificates: the certificates are kept here or elsewhere, not both" if given else ""
    missing = [f"--webhook-{name}" for name, value in own.items() if not value]
    return f"--webhook-port needs {', '.join(missing)}, or --webhook-certificates FOLDER" if missing else ""


def _own_namespace() -> str:
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return "dtesn-system"
