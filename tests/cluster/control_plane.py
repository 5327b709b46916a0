"""A Kubernetes control plane on loopback: etcd, kube-apiserver, and as asked the controllers, the scheduler and kwok's fake nodes.

Needs no root and no container: `with ControlPlane.started(folder) as plane: plane.kubectl("get", "nodes")`. Services of type
ExternalName that name `localhost` are the way from the API server to webhooks and API services that a test runs.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.cluster.build import binary, stages
from tests.cluster.certificates import Authority, write_key
from tests.cluster.cluster import Cluster, kubeconfig_file, until
from tests.cluster.processes import Daemon, free_port

__all__ = ["CRDS", "ControlPlane", "fake_node", "until"]

CRDS = tuple(sorted((Path(__file__).resolve().parents[2] / "crds").glob("*.yaml")))
FAST = ["--kube-api-qps=1000", "--kube-api-burst=2000"]  # the defaults, 20 to 50 a second, would hide whoever is measured
# A HorizontalPodAutoscaler looks each second and takes its time before it scales down: seconds, not the usual five minutes.
EAGER = ["--horizontal-pod-autoscaler-sync-period=1s", "--horizontal-pod-autoscaler-downscale-stabilization=3s"]
CLIENTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "admin": ("admin", ["system:masters"]),
    "kube-controller-manager": ("system:kube-controller-manager", []),
    "kube-scheduler": ("system:kube-scheduler", []),
    "front-proxy": ("front-proxy", []),
}
CONTROLLERS = ("kube-controller-manager", "kube-scheduler", "kwok")
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}
NODE_ANNOTATION = {"kwok.x-k8s.io/node": "fake"}


class ControlPlane(Cluster):
    """A running control plane. `daemons` by program name.

    What a subclass may have otherwise: the `address` that the API server listens on, the `clients` that get certificates and a
    kubeconfig (user and groups by name), further flags of the API server, what its audit log keeps, and variables of the environment
    of all its processes.
    """

    address = "127.0.0.1"
    clients: Mapping[str, tuple[str, Sequence[str]]] = CLIENTS
    audit_policy: Mapping[str, Any] = AUDIT_POLICY
    environment: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "admin.kubeconfig", folder / "audit.log")
        self.port, self.etcd = free_port(), f"http://127.0.0.1:{free_port()}"
        self.logs = folder / "logs"
        self.daemons: dict[str, Daemon] = {}

    @classmethod
    @contextmanager
    def started(cls, folder: Path, *, controllers: bool = True, nodes: int = 2, first: Sequence[Path] = ()) -> Iterator[ControlPlane]:
        """A new one, ended with the block.

        `controllers`: with the controller-manager, the scheduler, kwok and fake nodes. `first`: files with resource
        definitions. Controllers notice those that come later only at their next look, up to half a minute on.
        """
        folder.mkdir(parents=True, exist_ok=True)
        plane = cls(folder)
        try:
            plane.start(controllers=controllers, nodes=nodes, first=first)
            yield plane
        finally:
            for daemon in reversed(plane.daemons.values()):
                daemon.kill()  # nothing of it is used again, and the API server would wait for its watches

    def start(self, *, controllers: bool, nodes: int, first: Sequence[Path]) -> None:
        """Start everything and wait until it answers."""
        self._certificates()
        self._start_etcd()
        self._start_api_server()
        if first:  # server-side: some definitions are longer than the annotation of a client-side apply
            files = [f"--filename={file}" for file in first]
            self.kubectl("apply", "--server-side", *files)
            until(lambda: self.kubectl("wait", "--for=condition=Established", *files), what="the kinds")  # refused where there is none yet
        if controllers:
            self._start_controllers()
            if nodes:
                self.apply(*(fake_node(f"node-{number}") for number in range(nodes)))

    def api_server_flags(self) -> Sequence[str]:
        """Further flags. Here: no endpoints of the Service `kubernetes`, since a loopback address is none for pods."""
        return ["--endpoint-reconciler-type=none"]

    @property
    def api_server(self) -> Daemon:
        """The API server's process, which faults are done to."""
        return self.daemons["kube-apiserver"]

    def restart_controllers(self) -> None:
        """Kill them and start them again, with the scheduler and kwok."""
        for name in CONTROLLERS:
            self.daemons[name].kill()
            self.daemons[name].start()

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        return self.get_url("/readyz")[0] == 200

    def _certificates(self) -> None:
        pki = self.folder / "pki"
        authority = Authority(pki)
        hosts = [self.address, "10.96.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        authority.server("apiserver", hosts)
        cluster = {"server": f"https://{self.address}:{self.port}", "certificate-authority": str(authority.file)}
        for name, (user, groups) in self.clients.items():
            authority.client(name, user, groups)
            certificate = {"client-certificate": str(pki / f"{name}.crt"), "client-key": str(pki / f"{name}.key")}
            kubeconfig_file(self.folder / f"{name}.kubeconfig", cluster, name, certificate)
        write_key(pki / "service-accounts.key", rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def _start_etcd(self) -> None:
        peers = f"http://127.0.0.1:{free_port()}"
        command = [
            *(binary("etcd"), "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--log-level=warn"),
            *(f"--listen-client-urls={self.etcd}", f"--advertise-client-urls={self.etcd}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"),
            *("--quota-backend-bytes=4294967296", "--auto-compaction-retention=0"),
        ]
        self.daemons["etcd"] = etcd = self._daemon("etcd", command)
        etcd.until(lambda: _answers(f"{self.etcd}/health"))

    def _start_api_server(self) -> None:
        pki = self.folder / "pki"
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(dict(self.audit_policy)), encoding="utf-8")
        command = [
            *(binary("kube-apiserver"), f"--etcd-servers={self.etcd}", f"--cert-dir={pki}", f"--bind-address={self.address}"),
            *(f"--secure-port={self.port}", f"--advertise-address={self.address}"),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key", f"--client-ca-file={pki}/ca.crt"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/service-accounts.key"),
            *(f"--service-account-signing-key-file={pki}/service-accounts.key", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--authorization-mode=Node,RBAC", "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"),
            *(f"--requestheader-client-ca-file={pki}/ca.crt", "--requestheader-allowed-names=front-proxy"),
            *("--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group"),
            *("--requestheader-username-headers=X-Remote-User", f"--proxy-client-cert-file={pki}/front-proxy.crt"),
            f"--proxy-client-key-file={pki}/front-proxy.key",
            *(f"--audit-policy-file={policy}", f"--audit-log-path={self._audit}", "--audit-log-mode=blocking-strict"),
            *("--max-requests-inflight=1000", "--max-mutating-requests-inflight=500", *self.api_server_flags()),
        ]
        self.daemons["kube-apiserver"] = server = self._daemon("kube-apiserver", command)
        server.until(self.ready)

    def _start_controllers(self) -> None:
        pki = self.folder / "pki"
        manager = [
            *(binary("kube-controller-manager"), f"--kubeconfig={self.folder}/kube-controller-manager.kubeconfig"),
            *(f"--root-ca-file={pki}/ca.crt", f"--service-account-private-key-file={pki}/service-accounts.key"),
            *("--use-service-account-credentials", "--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1"),
            *("--concurrent-gc-syncs=20", *FAST, *EAGER),
        ]
        scheduler = [
            *(binary("kube-scheduler"), f"--kubeconfig={self.folder}/kube-scheduler.kubeconfig"),
            *("--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1", *FAST),
        ]
        kwok = [
            *(binary("kwok"), f"--kubeconfig={self.kubeconfig}", "--manage-all-nodes=false"),
            *("--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", f"--server-address=127.0.0.1:{free_port()}"),
            *(f"--config={stage}" for stage in stages()),
        ]
        for name, command in zip(CONTROLLERS, (manager, scheduler, kwok), strict=True):
            self.daemons[name] = self._daemon(name, command)
        self.daemons["kube-controller-manager"].until(self._has_default_account)

    def _daemon(self, name: str, command: Sequence[str | Path]) -> Daemon:
        return Daemon(name, command, self.logs, {**os.environ, **self.environment})

    def _has_default_account(self) -> bool:
        return self.get_url("/api/v1/namespaces/default/serviceaccounts/default")[0] == 200


def fake_node(name: str, **allocatable: str) -> dict[str, Any]:
    """A node of kwok's, with room for many pods; `allocatable` adds resources (`**{"nvidia.com/gpu": "8"}`)."""
    resources = {"cpu": "1000", "memory": "4Ti", "pods": "10000", **allocatable}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": NODE_ANNOTATION, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "status": {"allocatable": resources, "capacity": resources},
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
