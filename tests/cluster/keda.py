"""KEDA as processes beside a control plane: its operator, and the adapter that serves external metrics to autoscalers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.build import binary, files
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import CRDS, ControlPlane
from tests.cluster.processes import Daemon, free_port

_NAMESPACE = "keda"
_METRICS = "/apis/external.metrics.k8s.io/v1beta1"


class Keda:
    """A control plane in which KEDA works as the cluster's administrator."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Keda]:
        """A new control plane with KEDA, ended with the block."""
        definitions = sorted(files("keda-operator").rglob("*.yaml"))
        with ControlPlane.started(folder, first=[*definitions, *CRDS]) as plane:
            keda = cls(plane)
            keda._start()
            yield keda

    def _start(self) -> None:
        certificates = self.plane.folder / "keda"
        Authority(certificates).peer("tls", ["127.0.0.1", "localhost"])
        namespaces = {"WATCH_NAMESPACE": "", "POD_NAMESPACE": _NAMESPACE, "KEDA_CLUSTER_OBJECT_NAMESPACE": _NAMESPACE}
        environment = {**os.environ, **namespaces, "KUBECONFIG": str(self.plane.kubeconfig)}
        metrics, health, adapter = free_port(), free_port(), free_port()
        operator = [
            *(binary("keda-operator"), f"--cert-dir={certificates}", f"--metrics-service-bind-address=127.0.0.1:{metrics}"),
            *(f"--health-probe-bind-address=127.0.0.1:{health}", f"--metrics-bind-address=127.0.0.1:{free_port()}"),
            "--zap-log-level=info",
        ]
        server = [
            *(binary("keda-adapter"), f"--metrics-service-address=127.0.0.1:{metrics}", f"--cert-dir={certificates}"),
            *(f"--secure-port={adapter}", "--bind-address=127.0.0.1", f"--port={free_port()}"),
            *(f"--tls-cert-file={certificates}/tls.crt", f"--tls-private-key-file={certificates}/tls.key"),
            *(f"--{what}-kubeconfig={self.plane.kubeconfig}" for what in ("lister", "authentication", "authorization")),
        ]
        self.plane.create_namespace(_NAMESPACE)
        daemons = self.plane.daemons
        for name, command in (("keda-operator", operator), ("keda-adapter", server)):
            daemons[name] = Daemon(name, command, self.plane.logs, environment)
        self.plane.apply(*_api_service(adapter), namespace=_NAMESPACE)
        daemons["keda-adapter"].until(lambda: self.plane.get_url(_METRICS)[0] == 200)


def _api_service(port: int) -> list[dict[str, Any]]:
    """How the API server finds the adapter: a Service of a name instead of pods."""
    name = "keda-metrics-apiserver"
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    registered: dict[str, Any] = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": name, "namespace": _NAMESPACE, "port": port},
        },
    }
    return [service, registered]
