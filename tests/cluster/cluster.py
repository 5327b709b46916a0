"""A cluster that tests talk to, whoever started it: kubectl as its administrator, plain GETs, kubeconfigs for other users."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.cluster.build import MissingPrerequisite, binary

_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_NAMESPACES = "/api/v1/namespaces"
_FAKE = "metadata.annotations.kwok\\.x-k8s\\.io/node"


class Cluster:
    """The cluster that a kubeconfig's current context names. `folder` is for what is written here, `audit` the API server's audit log."""

    def __init__(self, folder: Path, kubeconfig: Path, audit: Path | None = None) -> None:
        self.folder = folder
        self.kubeconfig = kubeconfig
        self._audit = audit

    @classmethod
    def given(cls, kubeconfig: Path, folder: Path) -> Cluster:
        """One that somebody else runs. Raises MissingPrerequisite where its nodes are not kwok's, for nothing would become Ready."""
        cluster = cls(folder, kubeconfig.resolve(strict=True), kubeconfig.resolve().with_name("audit.log"))
        if not cluster.kubectl("get", "nodes", "--output", f"jsonpath={{.items[*].{_FAKE}}}").stdout.strip():
            raise MissingPrerequisite(
                f"the cluster of {kubeconfig} has no fake nodes of kwok's, on which pods become Ready without images; "
                "`make cluster-up` starts one that has"
            )
        return cluster

    @property
    def audit(self) -> Path:
        """The audit log, at metadata level, one JSON object a line. Raises MissingPrerequisite where it is not at hand."""
        if self._audit is None or not self._audit.exists():
            raise MissingPrerequisite(f"the API server of {self.kubeconfig} writes no audit log here; one of `make cluster-up` does")
        return self._audit

    @cached_property
    def url(self) -> str:
        """The API server."""
        return str(self._section("cluster")["server"])

    def kubectl(self, *arguments: str, data: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin. With `check`, a failure raises RuntimeError with what it said."""
        command = [str(binary("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        environment = {**os.environ, "HOME": str(self.folder)}
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=False, env=environment)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def apply(self, *manifests: Mapping[str, Any], namespace: str = "default") -> None:
        """`kubectl apply` of manifests."""
        self.kubectl("apply", "--namespace", namespace, "-f", "-", data=yaml.safe_dump_all([dict(one) for one in manifests]))

    def get(self, what: str, *arguments: str, namespace: str = "default") -> Any:
        """What `kubectl get -o json` says. Asked directly where that is plain: what is polled need not start a program each time."""
        path = None if arguments else self._path_of(what, namespace)
        if path is None:
            return json.loads(self.kubectl("get", what, "--namespace", namespace, "-o", "json", *arguments).stdout)
        found = self._read(path)
        for one in found.get("items", [found]):
            one["metadata"].pop("managedFields", None)
        return found

    def exists(self, what: str, namespace: str = "default") -> bool:
        """Whether there is such an object."""
        path = self._path_of(what, namespace)
        if path is None:
            return self.kubectl("get", what, "--namespace", namespace, check=False).returncode == 0
        try:
            self._read(path)
        except FileNotFoundError:
            return False
        return True

    def create_namespace(self, name: str) -> None:
        """A new one."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        status, answer = self.send("POST", _NAMESPACES, body)
        if status != 201:
            raise RuntimeError(f"namespace {name}: {status} {answer.decode(errors='replace')}")

    def delete_namespace(self, name: str) -> None:
        """Have it deleted; its end is not waited for."""
        self.send("DELETE", f"{_NAMESPACES}/{name}")

    def get_url(self, path: str, timeout: float = 5.0, accept: str = "application/json") -> tuple[int, bytes]:
        """Status and body of a GET as admin; status 0 where nothing answers."""
        return self.send("GET", path, timeout=timeout, accept=accept)

    def send(
        self, method: str, path: str, body: Any = None, *, timeout: float = 30.0, accept: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body of what is answered to the admin; status 0 where nothing answers."""
        headers = {**self.headers, "Accept": accept, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = self._client.request(method, path, content=data, headers=headers, timeout=timeout)
        except httpx.TransportError:
            return 0, b""
        return answer.status_code, answer.content

    def write_kubeconfig(self, name: str, user: Mapping[str, str], *, server: str | None = None) -> Path:
        """A kubeconfig with the user's credentials (a `user` section); `server` is a way to this API server through something else."""
        section = self._section("cluster") if server is None else {"server": server}
        return kubeconfig_file(self.folder / f"{name}.kubeconfig", section, name, user)

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """What the API server is trusted by, with the admin's certificate."""
        section, user = self._section("cluster"), self._section("user")
        context = ssl.create_default_context(cafile=self._file(section, "certificate-authority"))
        if (certificate := self._file(user, "client-certificate")) is not None:
            context.load_cert_chain(certificate, self._file(user, "client-key"))
        return context

    @cached_property
    def _client(self) -> httpx.Client:
        """Connections that are kept, for any number of threads: what is looked at again and again need not shake hands each time."""
        client = httpx.Client(base_url=self.url, verify=self.tls, trust_env=False, limits=httpx.Limits(max_connections=None))
        weakref.finalize(self, client.close)
        return client

    @cached_property
    def headers(self) -> dict[str, str]:
        """The admin's token, where the kubeconfig has that. Raises MissingPrerequisite where it has neither certificate nor token."""
        user = self._section("user")
        if "token" in user:
            return {"Authorization": f"Bearer {user['token']}"}
        if self._file(user, "client-certificate") is None:
            raise MissingPrerequisite(f"{self.kubeconfig} must hold a client certificate or a token, not {', '.join(user) or 'nothing'}")
        return {}

    def _read(self, path: str, accept: str = "application/json") -> Any:
        """What a GET finds. Raises FileNotFoundError where there is no such object, RuntimeError at any other answer or none."""
        status, body = self.get_url(path, accept=accept)
        if status == 200:
            return json.loads(body)
        error = FileNotFoundError if status == 404 else RuntimeError
        raise error(f"GET {path}: {status} {body.decode(errors='replace')}")

    def _path_of(self, what: str, namespace: str) -> str | None:
        """The path of KIND or KIND/NAME. None where that is for kubectl to say: several kinds, or one that is not known by this name."""
        kind, slash, name = what.partition("/")
        if kind not in self._places:
            self.__dict__.pop("_places")  # its definition may have come since
        place = self._places.get(kind)
        return None if place is None else place.format(namespace=namespace) + slash + name

    @cached_property
    def _places(self) -> dict[str, str]:
        """Paths of lists by the names of a kind: plural, singular, short. Of several groups, the first has the name."""
        found: dict[str, str] = {}
        for root in ("/api", "/apis"):
            for group in self._read(root, _DISCOVERY)["items"]:
                version = group["versions"][0]
                base = "/".join(part for part in (root, group["metadata"].get("name"), version["version"]) if part)
                for one in version.get("resources", ()):
                    inner = "/namespaces/{namespace}/" if one["scope"] == "Namespaced" else "/"
                    for name in (one["resource"], one["singularResource"], *one.get("shortNames", ())):
                        found.setdefault(name, f"{base}{inner}{one['resource']}")
        return found

    def _section(self, kind: str) -> dict[str, Any]:
        """The current context's cluster or user."""
        config = yaml.safe_load(self.kubeconfig.read_text(encoding="utf-8"))
        context = next(one["context"] for one in config["contexts"] if one["name"] == config["current-context"])
        found: dict[str, Any] = next(one[kind] for one in config[f"{kind}s"] if one["name"] == context[kind])
        return found

    def _file(self, section: Mapping[str, Any], field: str) -> str | None:
        """A file that a section names, or holds as base64."""
        if (data := section.get(f"{field}-data")) is not None:
            file = self.folder / field
            file.touch(mode=0o600)
            file.write_bytes(base64.b64decode(data))
            return str(file)
        return str(self.kubeconfig.parent / section[field]) if field in section else None


def kubeconfig_file(file: Path, cluster: Mapping[str, Any], name: str, user: Mapping[str, str]) -> Path:
    """Write a kubeconfig of one cluster and one user."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": dict(cluster)}],
        "users": [{"name": name, "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        "current-context": "test",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def until(ready: Callable[[], Any], seconds: float = 30.0, *, what: str = "the condition") -> Any:
    """Poll `ready()` until it is true and return what it said; the last exception is shown where it never is.

    Often at first, and then less: what takes long is not noticed much later for that, and leaves the processors to what is waited for.
    """
    deadline, pause = time.monotonic() + seconds, 0.02
    last: object = None
    while time.monotonic() < deadline:
        try:
            if found := ready():
                return found
            last = found
        except (RuntimeError, FileNotFoundError, KeyError, IndexError) as error:  # of a look that found nothing yet
            last = error
        time.sleep(pause)
        pause = min(0.1, 1.2 * pause)
    raise AssertionError(f"{what} did not come within {seconds:g} s; last: {last!r}")
