"""A cluster with one real node, inside the namespaces that `namespaces.py` sets up: real pods, Services and names.

    with Node.joined(folder, cgroup="/own", images=archives) as node: node.kubectl("get", "pods", "-A")

What is the same as on loopback comes from `tests.cluster`; here are the API server's place on the node's address, containerd,
kubelet, kube-proxy and CoreDNS.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import yaml
from tests.cluster.control_plane import CLIENTS, ControlPlane
from tests.cluster.processes import Daemon
from tests.node.namespaces import ADDRESS
from tests.node.programs import program

NAME = "node-1"
DOMAIN = "cluster.local"
PODS = "10.244.0.0/16"
SOCKET = "/run/containerd/containerd.sock"
PAUSE = "localhost/pause:1"
_CLIENTS: Mapping[str, tuple[str, Sequence[str]]] = {
    **CLIENTS,
    "kubelet": (f"system:node:{NAME}", ["system:nodes"]),
    "kube-proxy": ("system:kube-proxy", []),
    "coredns": ("coredns", ["system:masters"]),  # it reads Services, and has no account of its own here
    "apiserver-kubelet": ("apiserver-kubelet", ["system:masters"]),  # for logs and exec
}


class Node(ControlPlane):
    """A running cluster of one node."""

    address = ADDRESS
    clients = _CLIENTS

    def api_server_flags(self) -> Sequence[str]:
        """The API server's way to the kubelet. Its endpoints are kept: pods reach it as `kubernetes.default`."""
        pki = self.folder / "pki"
        return [f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt", f"--kubelet-client-key={pki}/apiserver-kubelet.key"]

    @classmethod
    @contextmanager
    def joined(cls, folder: Path, *, cgroup: str, images: Sequence[Path]) -> Iterator[Node]:
        """A new one, Ready. `cgroup`: the group that pods are put into; `images`: archives that it knows."""
        node = cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            node._start_containerd()
            with ThreadPoolExecutor() as pool:
                imports = [pool.submit(node.ctr, "images", "import", str(archive)) for archive in images]
                node.start(controllers=True, nodes=0, first=())
                for one in imports:
                    one.result()
            node._start_kubelet(cgroup)
            node._start_proxy()
            node._start_names()
            node.daemons["kubelet"].until(node._node_ready)
            yield node
        finally:
            for daemon in reversed(node.daemons.values()):
                daemon.kill()  # the namespaces end too, and with them the pods

    def make_namespace(self, name: str) -> None:
        """A namespace that enforces the restricted Pod Security Standard."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def python(self, namespace: str, pod: str, container: str, source: str, *arguments: str) -> str:
        """Run Python in a container; what it printed. Raises RuntimeError where it fails."""
        return self.kubectl(
            "exec", f"--namespace={namespace}", pod, f"--container={container}", "--", "python", "-c", source, *arguments
        ).stdout

    def ctr(self, *arguments: str) -> str:
        """containerd's own client, in the namespace of Kubernetes. Raises RuntimeError with what it said."""
        done = subprocess.run(
            ["ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def _start_containerd(self) -> None:
        network = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods0",
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": "10.244.0.0/24"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": "/run/cni-addresses",
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        self._write("cni/10-pods.conflist", json.dumps(network))
        config = self._write(
            "containerd.toml",
            f"""
version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self.folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
""",
        )
        self.daemons["containerd"] = containerd = Daemon("containerd", ["containerd", "--config", config], self.logs)
        containerd.until(self._containerd_answers)

    def _containerd_answers(self) -> bool:
        try:
            return bool(self.ctr("version"))
        except RuntimeError:
            return False

    def _start_kubelet(self, cgroup: str) -> None:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.folder / "pki" / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "failSwapOn": False,
            "clusterDNS": [ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": str(self._write("resolv.conf", f"nameserver {ADDRESS}\n")),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "podLogsDir": str(self.logs / "pods"),
            "address": ADDRESS,
            "healthzBindAddress": "127.0.0.1",
            "imageGCHighThresholdPercent": 100,  # images that were brought could not be had again
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        }
        command = [
            *(program("kubelet"), f"--config={self._write('kubelet.yaml', yaml.safe_dump(config))}"),
            *(f"--kubeconfig={self.folder}/kubelet.kubeconfig", f"--root-dir={self.folder}/kubelet"),
            *(f"--node-ip={ADDRESS}", f"--hostname-override={NAME}"),
        ]
        self.daemons["kubelet"] = Daemon("kubelet", command, self.logs)

    def _start_proxy(self) -> None:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "clientConnection": {"kubeconfig": str(self.folder / "kube-proxy.kubeconfig")},
            # The machine's own table of connections is left as it is.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        command = [program("kube-proxy"), f"--config={self._write('kube-proxy.yaml', yaml.safe_dump(config))}"]
        self.daemons["kube-proxy"] = Daemon("kube-proxy", command, self.logs)

    def _start_names(self) -> None:
        corefile = self._write(
            "Corefile",
            f"""
.:53 {{
    bind {ADDRESS}
    errors
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {self.folder}/coredns.kubeconfig
        ttl 5
    }}
}}
""",
        )
        self.daemons["coredns"] = Daemon("coredns", [program("coredns"), "-conf", corefile], self.logs)

    def _node_ready(self) -> bool:
        if not self.exists(f"node/{NAME}"):
            return False
        conditions = self.get(f"node/{NAME}")["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
