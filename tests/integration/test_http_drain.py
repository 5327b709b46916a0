"""The end of a server: drain, and the signals and the command that begin it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.integration.http_client import PROCESS, client, eventually, metric, post_statuses, ready
from tests.integration.http_server import LONG, SMALL, Server, running

MODEL_ONLY = {name: value for name, value in SMALL.items() if name.startswith("DTESN_MODEL_")}
SLOW = {"DTESN_MODEL_ESN_SIZE": "256", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}
WINDOW = {"DTESN_BATCHING_STRATEGY": "fixed", "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "10000", "DTESN_BATCHING_MAX_BATCH_SECONDS": "60"}


async def test_sigterm_fails_readiness_at_once_serves_for_the_delay_and_ends_with_zero() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "10"}) as server:
        async with client(server) as http:
            assert await ready(http) == 200
            server.terminate()
            await eventually(lambda: ready(http), lambda status: status == 503)
            async with http.get("/healthz") as answer:
                assert answer.status == 200
            async with http.post(PROCESS, json={"input_data": "a"}) as answer:
                assert answer.status == 200
                assert answer.headers["Connection"] == "close"
            server.terminate()  # a second one only logs
        assert await asyncio.to_thread(server.end) == 0
        assert "already draining" in server.log()
        assert "drained" in server.log()


class Connection:
    """A raw connection of one client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, server: Server) -> Connection:
        """A new one."""
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)

    async def answer(self) -> tuple[bytes, dict[str, object]]:
        """Head and body of the next answer."""
        async with asyncio.timeout(LONG):
            head = await self._reader.readuntil(b"\r\n\r\n")
            body = await self._reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        return head, json.loads(body)

    async def begin(self) -> None:
        """Begin a request that the server then holds inside, its body to follow."""
        self.send(REQUEST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        async with asyncio.timeout(LONG):
            assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def closed(self) -> bool:
        """Whether nothing more comes."""
        async with asyncio.timeout(LONG):
            closed = await self._reader.read() == b""
        self._writer.close()
        return closed


BODY = b'{"input_data": "a"}'
REQUEST = f"POST {PROCESS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


async def until_refused(server: Server) -> None:
    """Until the listener is closed; the pause bounds the attempts, no outcome depends on it."""
    async with asyncio.timeout(LONG):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_after_the_delay_new_requests_on_open_connections_are_503_and_new_connections_refused() -> None:
    with running() as server:
        inside, idle, unused, half_sent = [await Connection.to(server) for _ in range(4)]
        idle.send(REQUEST + BODY)
        assert (await idle.answer())[0].startswith(b"HTTP/1.1 200 ")
        half_sent.send(REQUEST[:30])
        await inside.begin()
        server.terminate()
        await until_refused(server)
        idle.send(REQUEST + BODY)
        unused.send(REQUEST + BODY)
        half_sent.send(REQUEST[30:] + BODY)
        for connection in (idle, unused, half_sent):
            head, problem = await connection.answer()
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in head
            assert b"Connection: close" in head
            assert problem["code"] == "draining"
            assert await connection.closed()
        inside.send(BODY)  # what was accepted is answered
        head, answer = await inside.answer()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in head
        assert answer["status"] == "success"
        assert await inside.closed()
        assert await asyncio.to_thread(server.end) == 0


async def test_a_drain_closes_the_windows_at_once() -> None:
    with running({**WINDOW, "DTESN_BATCHING_TARGET_BATCH_SIZE": "8"}) as server:
        async with client(server) as http:
            call = asyncio.create_task(http.post(PROCESS, json={"input_data": "a", "timeout": LONG}))
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda pending: pending == 1)
            server.terminate()
            async with await call as answer:
                assert answer.status == 200
                waited = re.search(r"queue;dur=([0-9.]+)", answer.headers["Server-Timing"])
        assert waited is not None
        assert float(waited[1]) < 10_000  # the window, which otherwise it would have waited out
        assert await asyncio.to_thread(server.end) == 0


async def test_the_drain_command_fails_readiness_and_sigterm_then_drains_without_the_delay() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "600"}) as server:
        async with client(server) as http:
            assert await asyncio.to_thread(server.drain) == 0
            await eventually(lambda: ready(http), lambda status: status == 503)
            assert await post_statuses(http, "a", 5) == [200] * 5
            assert await asyncio.to_thread(server.drain) == 0
            server.terminate()
        assert await asyncio.to_thread(server.end) == 0  # in less than its 60 s, which are less than the delay
        assert await asyncio.to_thread(server.drain) == 1


async def test_a_bulk_call_under_way_is_answered_whole_by_a_drain() -> None:
    with running({**WINDOW, "DTESN_BATCHING_TARGET_BATCH_SIZE": "256", "DTESN_BATCHING_MAX_BATCH_SIZE": "256"}) as server:
        async with client(server) as http:

            async def bulk() -> dict[str, object]:
                async with http.post("/dtesn/batch_process", json={"inputs": ["x" * 50] * 200, "timeout": LONG}) as answer:
                    assert answer.status == 200
                    return await answer.json()

            call = asyncio.create_task(bulk())
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda pending: pending == 200)
            server.terminate(signal.SIGTERM)
            body = await call
            assert body["status"] == "success"
            assert len(body["results"]) == 200
        assert await asyncio.to_thread(server.end) == 0


async def test_a_stream_under_way_is_sent_whole_by_a_drain() -> None:
    with running(SLOW) as server:
        async with client(server) as http:
            body = {"inputs": ["x" * 500] * 200, "timeout": LONG}
            async with http.post("/dtesn/batch_process", json=body, headers={"Accept": "application/x-ndjson"}) as answer:
                assert answer.status == 200
                first = json.loads(await answer.content.readline())
                server.terminate()
                rest = [json.loads(line) async for line in answer.content]
            assert [item["index"] for item in [first, *rest]] == list(range(200))
            assert {item["status"] for item in [first, *rest]} == {"success"}
        assert await asyncio.to_thread(server.end) == 0


async def test_a_signal_at_a_terminal_ends_without_the_delay() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "600"}) as server:
        server.terminate(signal.SIGINT)
        assert await asyncio.to_thread(server.end) == 0  # in less than its 60 s


async def test_who_is_told_to_leave_while_it_starts_is_never_ready_but_serves_and_ends_without_the_delay() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "600"}, ready=False) as server:
        assert await asyncio.to_thread(server.drain) == 0
        server.wait_until_ready()
        async with client(server) as http:
            assert await ready(http) == 503
            assert await post_statuses(http, "a", 3) == [200] * 3
        server.terminate()
        assert await asyncio.to_thread(server.end) == 0


def test_the_drain_command_needs_no_port_wherever_the_servers_port_came_from(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "batcher.yaml"
    file.write_text(f"sidecar: {{port: {port}, drainDelaySeconds: 600}}\n")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "DTESN_SIDECAR_PORT": "tcp://10.0.0.7:80"}  # a service link, which is no setting
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DTESN_")} | environ | MODEL_ONLY
    command = [sys.executable, "-m", "dtesn_sidecar"]
    serving = [*command, "serve", "--host", "127.0.0.1", "--config", str(file)]
    with subprocess.Popen(serving, env=clean, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening on http://127.0.0.1:{port}\n"
            assert process.stdout.readline().startswith("ready")
            told = subprocess.run([*command, "drain"], env=clean, timeout=LONG, check=False)
            assert told.returncode == 0
            process.terminate()
            assert process.wait(LONG) == 0  # without the delay, so it was told
        finally:
            process.kill()
