"""The node itself: what the other tests take for granted."""

from __future__ import annotations

from tests.cluster.control_plane import until
from tests.node.calls import Caller, pod
from tests.node.node import Node

SLEEP = ["python", "-c", "import signal; signal.pause()"]


def test_a_pod_runs_and_its_output_and_a_command_in_it_can_be_had(node: Node, namespace: str) -> None:
    node.apply(pod("speaker", ["python", "-uc", "import signal; print('hello'); signal.pause()"]), namespace=namespace)
    node.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/speaker", "--timeout=60s")
    until(lambda: node.kubectl("logs", "-n", namespace, "speaker").stdout == "hello\n", what="the pod's output")
    assert node.kubectl("exec", "-n", namespace, "speaker", "--", "id", "-u").stdout == "65532\n"


def test_a_services_name_leads_to_its_pods_from_another_pod(node: Node, namespace: str, caller: Caller) -> None:
    server = pod("server", ["python", "-m", "http.server", "--directory", "/etc", "8000"], readinessProbe={"tcpSocket": {"port": 8000}})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "files"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    node.apply(server, service, namespace=namespace)
    node.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/server", "--timeout=60s")
    source = f"import urllib.request as u; print(u.urlopen('http://files.{namespace}/hostname', timeout=5).read().decode())"
    until(lambda: caller.python(source).strip() == "server", what="an answer through the Service")


def test_pods_reach_the_api_server_and_nothing_outside_the_node(caller: Caller) -> None:
    inside = (
        "import ssl, urllib.request as u; "
        "print(u.urlopen('https://kubernetes.default/version', timeout=5, context=ssl._create_unverified_context()).status)"
    )
    assert caller.python(inside) == "200\n"
    outside = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: print('no way')"
    assert caller.python(outside) == "no way\n"
