"""prometheus-adapter as a process beside a control plane, configured as `examples/` shows: the custom metrics API from a Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.build import binary
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import Daemon, free_port

RULES = Path(__file__).resolve().parents[2] / "examples" / "monitoring" / "prometheus-adapter.yaml"
_NAMESPACE = "default"
_NAME = "prometheus-adapter"
_GROUP, _VERSION = "custom.metrics.k8s.io", "v1beta2"


@contextmanager
def custom_metrics(plane: ControlPlane, prometheus: str) -> Iterator[None]:
    """The API for the block. It is taken away before the adapter ends: while it does not answer, no namespace can be deleted."""
    certificates, port = plane.folder / _NAME, free_port()
    Authority(certificates).server("tls", ["localhost"])
    command = [
        *(binary("prometheus-adapter"), f"--prometheus-url={prometheus}", f"--config={RULES}"),
        *("--metrics-relist-interval=1s", "--metrics-max-age=10s", f"--cert-dir={certificates}"),
        *(f"--secure-port={port}", "--bind-address=127.0.0.1"),
        *(f"--tls-cert-file={certificates}/tls.crt", f"--tls-private-key-file={certificates}/tls.key"),
        *(f"--{what}-kubeconfig={plane.kubeconfig}" for what in ("lister", "authentication", "authorization")),
    ]
    adapter = Daemon(_NAME, command, plane.logs)
    objects = _api_service(port)
    try:
        plane.apply(*objects, namespace=_NAMESPACE)
        adapter.until(lambda: plane.get_url(f"/apis/{_GROUP}/{_VERSION}")[0] == 200)
        yield
    finally:
        plane.kubectl("delete", "apiservice", f"{_VERSION}.{_GROUP}", "--ignore-not-found")
        plane.kubectl("delete", "service", _NAME, "-n", _NAMESPACE, "--ignore-not-found")
        adapter.stop()


def _api_service(port: int) -> list[dict[str, Any]]:
    """How the API server finds the adapter: a Service of a name instead of pods."""
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _NAME},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    registered: dict[str, Any] = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{_VERSION}.{_GROUP}"},
        "spec": {
            "group": _GROUP,
            "version": _VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 200,
            "insecureSkipTLSVerify": True,
            "service": {"name": _NAME, "namespace": _NAMESPACE, "port": port},
        },
    }
    return [service, registered]
