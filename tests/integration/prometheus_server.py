"""A real Prometheus on loopback with a scrape configuration of its own, an exporter whose values a test sets, and certificates."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import ipaddress
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SCRAPE_INTERVAL = "500ms"  # and the longest a scrape may take, which a busy machine needs
PASSWORD, PASSWORD_BCRYPT = "tests-only", "$2b$04$IwnQFXDpaqOgZz2yHJ1Fm.ngiOwprVudLI7hs1aH.nL6Gl7rPum6G"

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the Debian package prometheus")


def wait_for(condition: Callable[[], object]) -> Any:
    """What the condition answers once that is true; the test's own timeout is the only limit."""
    while not (answer := condition()):
        time.sleep(0.05)
    return answer


async def eventually(condition: Callable[[], object]) -> Any:
    """The same beside a running loop; the condition may be a coroutine function."""
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        await asyncio.sleep(0.05)


@dataclass
class Exporter:
    """A target: `text` is its whole /metrics; it can be changed at any time."""

    text: str = ""
    port: int = 0


@contextmanager
def exporting(text: str) -> Iterator[Exporter]:
    """An exporter for the `with` block."""
    exporter = Exporter(text)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exporter.text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        exporter.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield exporter
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Prometheus:
    """A server that can be killed and started again on its port."""

    folder: Path
    arguments: list[str]
    scheme: str
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def log(self) -> str:
        """All that it said."""
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start it, on its old port if it had one, and wait until it answers."""
        before = len(self.log()) if self.port else 0
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["prometheus", *self.arguments, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log, cwd=self.folder
            )

        def ready() -> bool:
            assert self.process.poll() is None, self.log()
            return "Server is ready to receive web requests" in self.log()[before:]

        wait_for(ready)
        self.port = int(re.findall(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', self.log())[-1])

    def kill(self) -> None:
        """As the kernel does when memory is out."""
        self.process.kill()
        self.process.wait()

    def query(self, query: str) -> list[Any]:
        """The result of an instant query, asked by this test and not by what is tested."""
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=60) as response:
            return yaml.safe_load(response.read())["data"]["result"]


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, int], web: Mapping[str, Any] | None = None) -> Iterator[Prometheus]:
    """A Prometheus for the `with` block that scrapes the given ports, by job; `web` is its web configuration (TLS, users)."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()]
    scrape = {"global": {"scrape_interval": SCRAPE_INTERVAL, "scrape_timeout": SCRAPE_INTERVAL}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape))
    arguments = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    if web is not None:
        (folder / "web.yml").write_text(yaml.safe_dump(dict(web)))
        arguments.append("--web.config.file=web.yml")
    server = Prometheus(folder, arguments, "https" if web and "tls_server_config" in web else "http")
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()


class Authority:
    """A certificate authority that issues certificates into files, as cert-manager does into Secrets."""

    def __init__(self, folder: Path, name: str = "an authority for tests") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = self._write(f"{name.replace(' ', '-')}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, alternative: str, stem: str | None = None) -> tuple[str, str]:
        """Files of a certificate and its key, for a DNS name or an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            known: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(alternative))
        except ValueError:
            known = x509.DNSName(alternative)
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
            .add_extension(x509.SubjectAlternativeName([known]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        stem = stem or name
        return (
            self._write(f"{stem}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{stem}-key.pem", secret),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def _write(self, name: str, content: bytes) -> str:
        """Replaced at once, as a Secret's files are."""
        fresh = self._folder / f".{name}"
        fresh.write_bytes(content)
        fresh.rename(self._folder / name)
        return str(self._folder / name)
