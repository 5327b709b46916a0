"""Requests from within the cluster: a pod, and a load that runs in it while a test does something to the others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bench.expected import TOLERANCE, features_alone
from bench.texts import sentences
from tests.cluster.build import binary
from tests.node import image
from tests.node.node import Node

from dtesn_api.reading import read
from dtesn_api.spec import ModelConfiguration

CALLER = "caller"
_SOURCE = Path(__file__).with_name("caller.py")
_ANSWERS = """
import sys, time, urllib.request
body = b'{"input_data": "hello"}'
request = urllib.request.Request(sys.argv[1] + "/dtesn/process_with_batching", body, {"Content-Type": "application/json"})
deadline = time.monotonic() + 100
left = int(sys.argv[2])
while left:
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            assert answer.status == 200
        left -= 1
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.02)
"""


@dataclass
class Outcome:
    """What the load saw; filled when it has ended."""

    sent: int = 0
    right: int = 0
    batched: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    median_ms: float = 0.0
    longest_ms: float = 0.0

    def assert_all_right(self) -> None:
        """Every request had its right answer."""
        assert not self.failed, self.failures
        assert not self.wrong, self.wrong
        assert self.right == self.sent > 0


def pod(name: str, command: list[str], **container: Any) -> dict[str, Any]:
    """A pod of the project's image that the `restricted` Pod Security Standard admits and that has no API token."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": pod_spec(name, command, **container),
    }


def pod_spec(name: str, command: list[str], **container: Any) -> dict[str, Any]:
    """The spec of the same."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": name,
                "image": image.IMAGE,
                "command": command,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                **container,
            }
        ],
    }


class Caller:
    """The pod from which requests are sent, in a namespace of its own."""

    namespace = "clients"

    def __init__(self, node: Node) -> None:
        self.node = node
        node.make_namespace(self.namespace)
        node.apply(pod(CALLER, ["python", "-c", "import signal; signal.pause()"]), namespace=self.namespace)
        node.kubectl("wait", "--namespace", self.namespace, "--for=condition=Ready", f"pod/{CALLER}", "--timeout=60s")

    def python(self, source: str, *arguments: str) -> str:
        """Run Python in the pod; what it printed. Raises RuntimeError where it fails."""
        return self.node.python(self.namespace, CALLER, CALLER, source, *arguments)

    def until_answered(self, url: str, times: int = 1) -> None:
        """Wait until so many requests to a Service are answered, each over a connection of its own."""
        self.python(_ANSWERS, url, str(times))

    @contextmanager
    def load(
        self,
        url: str,
        *,
        rate: float | None = None,
        at_once: int = 0,
        model: Mapping[str, Any],
        retries: bool = False,
        timeout: float = 15.0,
    ) -> Iterator[Outcome]:
        """Requests while the block runs, at a rate or always so many at once. They go on when it begins; all are answered when it ends."""
        plan = {
            "url": url,
            "rate": rate,
            "at_once": at_once,
            "retries": retries,
            "timeout": timeout,
            "tolerance": TOLERANCE * np.sqrt(_model(**model).esn_size),
            "texts": expected(json.dumps(dict(model), sort_keys=True)),
        }
        command = [str(binary("kubectl")), "--kubeconfig", str(self.node.kubeconfig), "exec", "--namespace", self.namespace]
        command += ["--stdin", CALLER, "--", "python", "-c", _SOURCE.read_text(encoding="utf-8")]
        outcome = Outcome()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps(plan) + "\n")
                process.stdin.flush()
                if process.stdout.readline() != "began\n":
                    raise RuntimeError(process.communicate()[1])
                yield outcome
                said, errors = process.communicate(timeout=timeout + 30)
            except AssertionError as failed:
                failed.add_note(f"the load until then: {''.join(process.communicate(timeout=timeout + 30))}")
                raise
            finally:
                process.kill()
        assert process.returncode == 0, errors
        for name, value in json.loads(said).items():
            setattr(outcome, name, value)


@cache
def expected(model: str) -> list[tuple[str, list[float]]]:
    """Texts, and the numbers of the summaries of their answers, each computed alone in this process."""
    texts = sentences(24)
    features = features_alone(texts, _model(**json.loads(model))).astype(np.float64)
    pairs = np.stack([np.linalg.norm(features, axis=-1), features.mean(axis=-1)], axis=-1)
    return [(text, numbers.reshape(-1).tolist()) for text, numbers in zip(texts, pairs, strict=True)]


def _model(**given: Any) -> ModelConfiguration:
    """The model that a resource's `spec.model` means."""
    return read(ModelConfiguration, given)
