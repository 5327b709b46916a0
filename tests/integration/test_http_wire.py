"""HTTP itself, over raw sockets: what clients other than aiohttp's may do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from tests.integration.http_server import LONG, Server, running

PROCESS = "/dtesn/process_with_batching"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def exchange(server: Server, data: bytes) -> bytes:
    """Raw bytes to the server, and everything it answers until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def post(text: str, *lines: str, version: str = "1.1") -> bytes:
    body = json.dumps({"input_data": text}).encode()
    head = (f"POST {PROCESS} HTTP/{version}", "Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}", *lines, "", "")
    return "\r\n".join(head).encode() + body


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """The answers, each with a Content-Length, as (head, body)."""
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        answers.append((head, rest[:length]))
        data = rest[length:]
    return answers


def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    lengths = [5, 400, 1, 90, 30]
    requests = [post("x" * length, f"X-Request-ID: r{length}") for length in lengths]
    requests[-1] = post("x" * lengths[-1], f"X-Request-ID: r{lengths[-1]}", "Connection: close")
    answers = split(exchange(server, b"".join(requests)))
    assert [head.split()[1] for head, _ in answers] == [b"200"] * len(lengths)
    assert [json.loads(body)["result"]["processed_output"]["nodes"] for _, body in answers] == lengths
    assert all(f"X-Request-ID: r{length}".encode() in head for length, (head, _) in zip(lengths, answers, strict=True))


def test_a_bad_request_in_a_pipeline_costs_only_itself(server: Server) -> None:
    bad = post("").replace(b'"input_data"', b'"input_dada"')
    answers = split(exchange(server, post("a") + bad + post("b", "Connection: close")))
    assert [head.split()[1] for head, _ in answers] == [b"200", b"422", b"200"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/config", "/dtesn/batch_metrics"])
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    head, _, body = exchange(server, f"HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("HEAD", PROCESS, {"POST"}), ("OPTIONS", PROCESS, {"POST"}), ("OPTIONS", "/healthz", {"GET", "HEAD"}), ("TRACE", PROCESS, {"POST"})],
)
def test_other_methods_are_405_with_what_is_allowed(server: Server, method: str, path: str, allowed: set[str]) -> None:
    head, _, body = exchange(server, f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    (allow,) = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"allow:")]
    assert set(allow.decode().split(",")) == allowed
    assert (body == b"") == (method == "HEAD")


def test_http_1_0_is_answered_and_its_connection_closed(server: Server) -> None:
    head, _, body = exchange(server, post("hello", version="1.0")).partition(b"\r\n\r\n")  # without asking for it
    assert head.split()[1] == b"200"
    assert json.loads(body)["result"]["processed_output"]["nodes"] == 5
