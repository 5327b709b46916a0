"""A Kubernetes control plane on loopback: etcd, kube-apiserver, and as asked the controllers, the scheduler and kwok's fake nodes.

Needs no root and no container: `with ControlPlane.started(folder) as plane: plane.kubectl("get", "nodes")`.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.cluster.build import binary, stages
from tests.cluster.certificates import Authority, write_key
from tests.cluster.processes import Daemon, free_port

FAST = ["--kube-api-qps=1000", "--kube-api-burst=2000"]  # the defaults, 20 to 50 a second, would hide whoever is measured
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}
NODE_ANNOTATION = {"kwok.x-k8s.io/node": "fake"}


@dataclass
class ControlPlane:
    """A running control plane. `daemons` by program name; `audit` is the API server's audit log, one JSON object a line."""

    folder: Path
    port: int
    daemons: dict[str, Daemon] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The API server."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """Of a member of system:masters."""
        return self.folder / "admin.kubeconfig"

    @property
    def audit(self) -> Path:
        """The audit log, at metadata level."""
        return self.folder / "audit.log"

    @property
    def logs(self) -> Path:
        """The folder with a log for each program."""
        return self.folder / "logs"

    @classmethod
    @contextmanager
    def started(cls, folder: Path, *, controllers: bool = True, nodes: int = 2) -> Iterator[ControlPlane]:
        """A new one, ended with the block. `controllers`: with the controller-manager, the scheduler, kwok and fake nodes."""
        plane = cls(folder, free_port())
        try:
            plane.start(controllers=controllers, nodes=nodes)
            yield plane
        finally:
            for daemon in reversed(plane.daemons.values()):
                daemon.stop()

    def start(self, *, controllers: bool, nodes: int) -> None:
        """Start everything and wait until it answers."""
        self._certificates()
        self._start_etcd()
        self._start_api_server()
        if controllers:
            self._start_controllers()
            for number in range(nodes):
                self.apply(fake_node(f"node-{number}"))

    def write_kubeconfig(self, name: str, user: dict[str, str]) -> Path:
        """A kubeconfig for this API server with the user's credentials (a `user` section)."""
        file = self.folder / f"{name}.kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.folder / "pki/ca.crt")}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return file

    def kubectl(self, *arguments: str, data: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin. With `check`, a failure raises RuntimeError with what it said."""
        command = [str(binary("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(
            command, input=data, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(self.folder)}
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def apply(self, *manifests: dict[str, Any], namespace: str = "default") -> None:
        """`kubectl apply` of manifests."""
        self.kubectl("apply", "--namespace", namespace, "-f", "-", data=yaml.safe_dump_all(manifests))

    def get(self, what: str, *arguments: str, namespace: str = "default") -> Any:
        """What `kubectl get -o json` says."""
        return json.loads(self.kubectl("get", what, "--namespace", namespace, "-o", "json", *arguments).stdout)

    def get_url(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET as admin; status 0 where nothing answers."""
        context = ssl.create_default_context(cafile=str(self.folder / "pki/ca.crt"))
        context.load_cert_chain(self.folder / "pki/admin.crt", self.folder / "pki/admin.key")
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=timeout, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def _certificates(self) -> None:
        authority = Authority(self.folder / "pki")
        hosts = ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        authority.server("apiserver", hosts)
        clients: dict[str, tuple[str, Sequence[str]]] = {
            "admin": ("admin", ["system:masters"]),
            "kube-controller-manager": ("system:kube-controller-manager", []),
            "kube-scheduler": ("system:kube-scheduler", []),
            "front-proxy": ("front-proxy", []),
        }
        for name, (user, groups) in clients.items():
            authority.client(name, user, groups)
            pki = self.folder / "pki"
            self.write_kubeconfig(name, {"client-certificate": str(pki / f"{name}.crt"), "client-key": str(pki / f"{name}.key")})
        write_key(self.folder / "pki/service-accounts.key", rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def _start_etcd(self) -> None:
        clients, peers = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.etcd = clients
        command = [
            *(binary("etcd"), "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--log-level=warn"),
            *(f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"),
            *("--quota-backend-bytes=4294967296", "--auto-compaction-retention=0"),
        ]
        self.daemons["etcd"] = etcd = Daemon("etcd", command, self.logs)
        etcd.until(lambda: _answers(f"{clients}/health"))

    def _start_api_server(self) -> None:
        pki = self.folder / "pki"
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(AUDIT_POLICY), encoding="utf-8")
        command = [
            *(binary("kube-apiserver"), f"--etcd-servers={self.etcd}", f"--cert-dir={pki}", "--bind-address=127.0.0.1"),
            *(f"--secure-port={self.port}", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key", f"--client-ca-file={pki}/ca.crt"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/service-accounts.key"),
            *(f"--service-account-signing-key-file={pki}/service-accounts.key", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--authorization-mode=Node,RBAC", "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"),
            *(f"--requestheader-client-ca-file={pki}/ca.crt", "--requestheader-allowed-names=front-proxy"),
            *("--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group"),
            *("--requestheader-username-headers=X-Remote-User", f"--proxy-client-cert-file={pki}/front-proxy.crt"),
            *(f"--proxy-client-key-file={pki}/front-proxy.key", "--enable-aggregator-routing=true"),
            *(f"--audit-policy-file={policy}", f"--audit-log-path={self.audit}", "--audit-log-mode=blocking-strict"),
            *("--max-requests-inflight=1000", "--max-mutating-requests-inflight=500"),
        ]
        self.daemons["kube-apiserver"] = server = Daemon("kube-apiserver", command, self.logs)
        server.until(self.ready)

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        return self.get_url("/readyz")[0] == 200

    def _start_controllers(self) -> None:
        pki = self.folder / "pki"
        manager = [
            *(binary("kube-controller-manager"), f"--kubeconfig={self.folder}/kube-controller-manager.kubeconfig"),
            *(f"--root-ca-file={pki}/ca.crt", f"--service-account-private-key-file={pki}/service-accounts.key"),
            *("--use-service-account-credentials", "--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1"),
            *("--concurrent-gc-syncs=20", *FAST),
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
        for name, command in (("kube-controller-manager", manager), ("kube-scheduler", scheduler), ("kwok", kwok)):
            self.daemons[name] = Daemon(name, command, self.logs)
        self.daemons["kube-controller-manager"].until(self._has_default_account)

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


def until(ready: Any, seconds: float = 30.0, *, what: str = "the condition") -> Any:
    """Poll `ready()` until it is true and return what it said; the last exception is shown where it never is."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if found := ready():
                return found
            last = found
        except (RuntimeError, KeyError, IndexError) as error:  # of a kubectl that found nothing yet
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {seconds:g} s; last: {last!r}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
