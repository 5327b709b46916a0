"""The chart for the tests: helm on a cluster, and the operator run as a process just as the installed Deployment would run it.

kwok's pods are Ready and run nothing. So the operator's command line and environment are read from the Deployment and started
here, with a token of the ServiceAccount that it names: what it may do is what the chart grants.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.build import binary
from tests.cluster.cluster import Cluster, until
from tests.cluster.processes import Daemon, free_port

CHART = Path(__file__).resolve().parents[2] / "charts" / "dtesn-batcher"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "dtesn", "dtesn-system"
FULLNAME = "dtesn-dtesn-batcher"
CONFIGURATION = f"{FULLNAME}.{NAMESPACE}.dtesn.dev"


class HelmFailed(Exception):
    """helm ended with an error; the text is what it said."""


@dataclass(frozen=True)
class Helm:
    """helm with folders of its own; on a cluster, where a kubeconfig is given."""

    folder: Path
    kubeconfig: Path | None = None
    chart: Path = CHART

    def __call__(self, *arguments: str, data: str | None = None) -> str:
        """What it prints. Raises HelmFailed."""
        homes = {f"HELM_{name}_HOME": str(self.folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        where = ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        command = [str(binary("helm")), *where, *arguments]
        environment = {**os.environ, **homes}
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise HelmFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def template(self, values: Mapping[str, Any] | None = None, *more: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """The rendered manifests, hooks too."""
        text = self(
            *("template", RELEASE, str(self.chart), f"--namespace={namespace}", "--values=-", *more), data=json.dumps(dict(values or {}))
        )
        return [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]

    def install(self, *more: str, values: Mapping[str, Any] | None = None, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
        """`helm install`, until everything is Ready; what it prints, notes included."""
        place = (release, str(self.chart), f"--namespace={namespace}", "--wait", "--timeout=60s", "--values=-")
        return self("install", *place, *more, data=json.dumps(dict(values or {})))

    def upgrade(self, *more: str, values: Mapping[str, Any] | None = None, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
        """`helm upgrade` with these values alone."""
        place = (release, str(self.chart), f"--namespace={namespace}", "--wait", "--timeout=60s", "--reset-values", "--values=-")
        return self("upgrade", *place, *more, data=json.dumps(dict(values or {})))

    def uninstall(self, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
        """`helm uninstall`, until everything is gone."""
        return self("uninstall", release, f"--namespace={namespace}", "--wait", "--timeout=60s", "--ignore-not-found")


@dataclass(frozen=True)
class Installed:
    """An operator that runs as its Deployment says."""

    daemon: Daemon
    webhook_port: int
    user: str  # as the API server's audit log names it

    def log(self) -> str:
        """What it has logged."""
        return self.daemon.log.read_text(errors="replace")


def kubeconfig_of(cluster: Cluster, namespace: str, account: str) -> Path:
    """A kubeconfig with a token of a ServiceAccount."""
    token = cluster.kubectl("create", "token", account, f"--namespace={namespace}", "--duration=1h").stdout.strip()
    return cluster.write_kubeconfig(f"{namespace}-{account}", {"token": token})


@contextmanager
def operator(
    cluster: Cluster, folder: Path, *, name: str = FULLNAME, namespace: str = NAMESPACE, identity: str = "one"
) -> Iterator[Installed]:
    """The operator of an installed release, ready, while the block runs. Its ports are free ones of loopback."""
    pod = cluster.get(f"deployment/{name}", namespace=namespace)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    port, webhook = free_port(), free_port()
    own = {"--port": port, "--webhook-port": webhook}
    given = (one.partition("=") for one in container["args"])
    arguments = [f"{flag}{equals}{own.get(flag, value)}" for flag, equals, value in given]
    fields = {"metadata.name": identity, "metadata.namespace": namespace}
    environment = {one["name"]: one.get("value") or fields[one["valueFrom"]["fieldRef"]["fieldPath"]] for one in container["env"]}
    program, *command = container["command"]
    assert program == "dtesn-operator"
    account = pod["serviceAccountName"]
    kubeconfig = kubeconfig_of(cluster, namespace, account)
    daemon = Daemon(
        f"operator-{name}-{identity}",
        [sys.executable, "-m", "dtesn_operator", *command, *arguments, "--host=127.0.0.1", f"--kubeconfig={kubeconfig}"],
        folder,
        {**os.environ, **environment},
    )
    try:
        daemon.until(lambda: _ready(port))
        yield Installed(daemon, webhook, f"system:serviceaccount:{namespace}:{account}")
    finally:
        daemon.stop(30)


def lead_webhook_here(cluster: Cluster, port: int, *, name: str = FULLNAME, namespace: str = NAMESPACE) -> None:
    """Let the webhook's Service lead to a port of this machine: there is no kube-proxy, but the API server follows a name."""
    away = {"spec": {"type": "ExternalName", "externalName": "localhost", "clusterIP": "", "clusterIPs": None, "selector": None}}
    cluster.kubectl("patch", f"service/{name}-webhook", f"--namespace={namespace}", "--type=merge", "-p", json.dumps(away))
    configuration = f"mutatingwebhookconfiguration/{name}.{namespace}.dtesn.dev"
    there = [{"op": "replace", "path": "/webhooks/0/clientConfig/service/port", "value": port}]
    cluster.kubectl("patch", configuration, "--type=json", "-p", json.dumps(there))


def authority(cluster: Cluster) -> str:
    """The webhook's CA bundle as the API server has it; empty where there is none."""
    found = cluster.get(f"mutatingwebhookconfiguration/{CONFIGURATION}")
    return str(found["webhooks"][0]["clientConfig"].get("caBundle", ""))


def audited(cluster: Cluster, user: str) -> list[dict[str, Any]]:
    """What a user asked of the API server so far."""
    lines = cluster.audit.read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, (one for one in lines if user in one)) if line["user"]["username"] == user]


def removed(cluster: Cluster, kind: str, names: Sequence[str], namespace: str) -> None:
    """Wait until none of these is there."""
    until(
        lambda: (
            not any(cluster.kubectl("get", f"{kind}/{name}", f"--namespace={namespace}", check=False).returncode == 0 for name in names)
        ),
        what=f"the end of {kind} {', '.join(names)}",
    )


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
