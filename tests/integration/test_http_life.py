"""The life of a server: start, live reload, clients that go away, drain."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.http_server import SMALL, Server, running

PROCESS = "/dtesn/process_with_batching"
MODEL_ONLY = {name: value for name, value in SMALL.items() if name.startswith("DTESN_MODEL_")}
SLOW = {"DTESN_MODEL_ESN_SIZE": "256", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def eventually(ask: Callable[[], AsyncIterator[object] | object], wanted: Callable[[object], bool], what: str) -> object:
    """Ask again until the answer is the wanted one; the pause bounds the traffic, no outcome depends on it."""
    async with asyncio.timeout(30):
        while True:
            found = await ask()
            if wanted(found):
                return found
            await asyncio.sleep(0.02)
    raise AssertionError(what)


async def config(http: aiohttp.ClientSession) -> dict[str, object]:
    async with http.get("/config") as answer:
        return await answer.json()


async def metric(http: aiohttp.ClientSession, name: str, **labels: str) -> float:
    async with http.get("/metrics") as answer:
        text = await answer.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def active(http: aiohttp.ClientSession) -> int:
    async with http.get("/dtesn/batch_metrics") as answer:
        return (await answer.json())["server_load"]["active_requests"]


async def ready(http: aiohttp.ClientSession) -> int:
    async with http.get("/readyz") as answer:
        return answer.status


# -- start -------------------------------------------------------------------------------------------------------------


def serve(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DTESN_")}
    command = [sys.executable, "-m", "dtesn_sidecar", "serve", *arguments]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_bad_configuration_stops_the_start_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    file.write_text("batching: {targetBatchSize: 99, maxBatchWaitMs: -1}\nmodel: {esnSize: many}\nnonsense: 1\n")
    done = serve({"DTESN_BATCHING_AGING_MS": "x"}, "--config", str(file), "--port", "70000")
    assert done.returncode == 2
    for word in ("targetBatchSize", "maxBatchWaitMs", "esnSize", "nonsense", "agingMs", "70000"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    done = serve({}, "--config", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "none.yaml" in done.stderr


def test_a_backend_that_is_not_there_stops_the_start_with_a_sentence() -> None:
    done = serve({**SMALL, "DTESN_BACKEND": "cupy"}, "--host", "127.0.0.1", "--port", "0")
    assert done.returncode == 1
    assert "cupy" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_stops_the_start_with_a_sentence() -> None:
    with running(ready=False) as server:
        done = serve(dict(SMALL), "--host", "127.0.0.1", "--port", str(server.port))
        assert done.returncode == 1
        assert "in use" in done.stderr
        server.wait_until_ready()


async def test_until_the_workers_are_ready_the_server_lives_but_takes_nothing() -> None:
    big = {"DTESN_MODEL_ESN_SIZE": "2048", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}
    with running(big, ready=False) as server:
        async with client(server) as http:
            async with http.get("/healthz") as answer:
                assert answer.status == 200
            async with http.get("/readyz") as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
                assert "starting" in (await answer.json())["reasons"][0]
            async with http.post(PROCESS, json={"input_data": "a"}) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
            for path in ("/metrics", "/config", "/openapi.json"):
                async with http.get(path) as answer:
                    assert answer.status == 200
            async with http.get("/dtesn/batch_metrics") as answer:
                assert answer.status == 503
        server.terminate()
        assert server.end() == 0


def test_a_readout_that_is_not_there_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    file.write_text("model: {readout: {path: /models/readout.safetensors}}\n")
    done = serve(dict(SMALL), "--host", "127.0.0.1", "--port", "0", "--config", str(file))
    assert done.returncode == 2
    assert "/models/readout.safetensors is unreadable (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_backend_that_was_taken_is_in_the_log() -> None:
    with running({"DTESN_BACKEND": "auto"}) as server:
        server.terminate()
        assert server.end() == 0
        assert '"message":"backend numpy on cpu, ' in server.log()


def test_the_text_log_is_one_line_per_record() -> None:
    with running({"DTESN_SIDECAR_LOGGING_FORMAT": "text"}, clean=False) as server:
        server.terminate()
        assert server.end() == 0
        lines = server.log().splitlines()
    assert any(" info drained" in line for line in lines)
    assert all(line.split()[1] in ("info", "warning") for line in lines)


# -- live reload -------------------------------------------------------------------------------------------------------


def swap(file: Path, text: str) -> str:
    """Replace the file as a mounted ConfigMap is replaced; the hash of the new one."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_changed_file_is_swapped_in_under_load_without_harm(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    first = swap(file, "batching: {strategy: fixed, targetBatchSize: 3, maxBatchSize: 4}\n")
    with running(None, "--config", str(file)) as server:
        async with client(server) as http:
            assert (await config(http))["config_hash"] == first
            stop = asyncio.Event()

            async def load(i: int) -> int:
                done = 0
                while not stop.is_set():
                    async with http.post(PROCESS, json={"input_data": f"client {i}"}) as answer:
                        assert answer.status == 200
                        assert (await answer.json())["result"]["processed_output"]["nodes"] == len(f"client {i}")
                    done += 1
                return done

            clients = [asyncio.create_task(load(i)) for i in range(16)]
            for target in (5, 2, 7):
                wanted = swap(file, f"batching: {{strategy: fixed, targetBatchSize: {target}, maxBatchSize: 8}}\n")
                found = await eventually(lambda: config(http), lambda c, w=wanted: c["config_hash"] == w, "the new file is in force")
                assert found["spec"]["batching"]["targetBatchSize"] == target
                assert await metric(http, "dtesn_config_info", hash=wanted) == 1
                current = partial(metric, http, "dtesn_batch_size_current")
                await eventually(current, lambda size, t=target: size == t, "the limit moves there")
            stop.set()
            assert min(await asyncio.gather(*clients)) > 0


async def test_a_bad_file_keeps_the_old_settings_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    first = swap(file, "batching: {targetBatchSize: 3}\n")
    with running(None, "--config", str(file), clean=False) as server:
        async with client(server) as http:
            swap(file, "batching: {targetBatchSize: 99, minBatchSize: x}\n")
            found = await eventually(lambda: config(http), lambda c: c["reload_errors"], "the errors show")
            assert {error["field"] for error in found["reload_errors"]} >= {"spec.batching.minBatchSize"}
            assert found["config_hash"] == first
            assert found["spec"]["batching"]["targetBatchSize"] == 3
            assert await metric(http, "dtesn_config_reload_errors_total") == 1
            async with http.post(PROCESS, json={"input_data": "a"}) as answer:
                assert answer.status == 200
            last = swap(file, "batching: {targetBatchSize: 4}\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == last, "a good file heals")
            assert found["reload_errors"] == []
        server.terminate()
        assert server.end() == 0


def mount(folder: Path, version: int, text: str) -> str:
    """Put a version of the file into the folder as the kubelet does: a folder of its own, to which `..data` then points."""
    there = folder / f"..version_{version}"
    there.mkdir()
    (there / "batcher.yaml").write_text(text)
    (folder / "..data_tmp").symlink_to(there.name)
    (folder / "..data_tmp").rename(folder / "..data")
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_mounted_configmap_is_followed_through_its_symlinks_and_when_it_comes_back(tmp_path: Path) -> None:
    first = mount(tmp_path, 1, "batching: {targetBatchSize: 3}\n")
    file = tmp_path / "batcher.yaml"
    file.symlink_to("..data/batcher.yaml")
    with running(None, "--config", str(file), clean=False) as server:
        async with client(server) as http:
            assert (await config(http))["config_hash"] == first
            second = mount(tmp_path, 2, "batching: {targetBatchSize: 4}\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == second, "the swap is seen")
            assert found["spec"]["batching"]["targetBatchSize"] == 4
            (tmp_path / "..data").unlink()
            found = await eventually(lambda: config(http), lambda c: c["reload_errors"], "a file that is gone is an error")
            assert found["config_hash"] == second
            assert str(file) in found["reload_errors"][0]["message"]
            third = mount(tmp_path, 3, "batching: {targetBatchSize: 5}\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == third, "it came back")
            assert (found["reload_errors"], found["spec"]["batching"]["targetBatchSize"]) == ([], 5)
        server.terminate()
        assert await asyncio.to_thread(server.end) == 0


async def test_what_needs_a_restart_is_said_and_not_done(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    swap(file, "batching: {targetBatchSize: 3}\n")
    with running(None, "--config", str(file)) as server:
        async with client(server) as http:
            wanted = swap(file, "batching: {targetBatchSize: 4}\nmodel: {seed: 7}\nload: {system: {weight: 0}}\nreplicas: 5\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == wanted, "the new file is in force")
            assert found["needs_restart"] == ["model.seed"]
            assert found["spec"]["model"]["seed"] == 42
            async with http.get("/dtesn/batch_metrics") as answer:
                assert set((await answer.json())["server_load"]) == {"active_requests", "queue"}


async def test_a_load_source_of_a_later_version_is_no_data_and_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    swap(file, "load: {prometheus: [{name: mine, url: 'http://prometheus:9090/?token=s3cr3t', query: up}], nvml: {weight: 1}}\n")
    with running(None, "--config", str(file)) as server:
        async with client(server) as http:

            async def load() -> dict[str, dict[str, object]]:
                async with http.get("/dtesn/batch_metrics") as answer:
                    return (await answer.json())["server_load"]

            found = await eventually(load, lambda sources: "not polled" not in str(sources), "every source was polled")
            for name in ("mine", "nvml"):
                assert found[name]["value"] is None
                assert found[name]["reason"] == "not available in this version"
            assert "s3cr3t" not in str(await config(http))


# -- clients that go away ----------------------------------------------------------------------------------------------


async def test_a_client_that_goes_away_is_counted_and_harms_nobody() -> None:
    with running(SLOW) as server:
        async with client(server) as http:

            async def one(i: int) -> tuple[int, int]:
                async with http.post(PROCESS, json={"input_data": "x" * (1000 + i), "timeout": 60}) as answer:
                    return answer.status, (await answer.json())["result"]["processed_output"]["nodes"]

            staying = [asyncio.create_task(one(i)) for i in range(30)]
            leaving = [asyncio.create_task(one(1000 + i)) for i in range(30)]
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda pending: pending > 10, "requests are queued")
            for task in leaving:
                task.cancel()
            outcomes = await asyncio.gather(*staying)
            assert outcomes == [(200, 1000 + i) for i in range(30)]
            gone = await eventually(lambda: metric(http, "dtesn_http_disconnects_total"), lambda n: n > 0, "disconnects are counted")
            assert gone <= 30
            assert await metric(http, "dtesn_cancellations_total") > 0
            assert await metric(http, "dtesn_pending_requests") == 0
        server.terminate()
        assert server.end() == 0
        assert sum(record["status"] == 499 for record in server.records()) == gone


# -- drain -------------------------------------------------------------------------------------------------------------


async def test_sigterm_fails_readiness_at_once_serves_for_the_delay_and_ends_with_zero() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "2"}) as server:
        async with client(server) as http:
            assert await ready(http) == 200
            server.terminate()
            await eventually(lambda: ready(http), lambda status: status == 503, "readiness fails")
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
        async with asyncio.timeout(60):
            head = await self._reader.readuntil(b"\r\n\r\n")
            body = await self._reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        return head, json.loads(body)

    async def begin(self) -> None:
        """Begin a request that the server then holds inside, its body to follow."""
        self.send(REQUEST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        async with asyncio.timeout(60):
            assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def closed(self) -> bool:
        """Whether nothing more comes."""
        async with asyncio.timeout(60):
            closed = await self._reader.read() == b""
        self._writer.close()
        return closed


BODY = b'{"input_data": "a"}'
REQUEST = f"POST {PROCESS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


async def until_refused(server: Server) -> None:
    """Until the listener is closed; the pause bounds the attempts, no outcome depends on it."""
    async with asyncio.timeout(60):
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
    window = {"DTESN_BATCHING_STRATEGY": "fixed", "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "10000", "DTESN_BATCHING_TARGET_BATCH_SIZE": "8"}
    with running(window) as server:
        async with client(server) as http:
            call = asyncio.create_task(http.post(PROCESS, json={"input_data": "a", "timeout": 200}))
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda pending: pending == 1, "it waits in its window")
            server.terminate()
            async with await call as answer:
                assert answer.status == 200
                waited = re.search(r"queue;dur=([0-9.]+)", answer.headers["Server-Timing"])
        assert waited is not None
        assert float(waited[1]) < 5_000  # half of the window, which otherwise it would have waited out
        assert await asyncio.to_thread(server.end) == 0


async def post_status(http: aiohttp.ClientSession, text: str, times: int) -> list[int]:
    async def one() -> int:
        async with http.post(PROCESS, json={"input_data": text, "timeout": 60}) as answer:
            await answer.read()
            return answer.status

    return await asyncio.gather(*(one() for _ in range(times)))


async def test_the_drain_command_fails_readiness_and_sigterm_then_drains_without_the_delay() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "600"}) as server:
        async with client(server) as http:
            assert await asyncio.to_thread(server.drain) == 0
            await eventually(lambda: ready(http), lambda status: status == 503, "readiness fails")
            assert await post_status(http, "a", 5) == [200] * 5
            assert await asyncio.to_thread(server.drain) == 0
            server.terminate()
        assert await asyncio.to_thread(server.end) == 0  # in less than its 60 s, which are less than the delay
        assert await asyncio.to_thread(server.drain) == 1


async def test_a_bulk_call_under_way_is_answered_whole_by_a_drain() -> None:
    with running(SLOW) as server:
        async with client(server) as http:

            async def bulk() -> dict[str, object]:
                async with http.post("/dtesn/batch_process", json={"inputs": ["x" * 500] * 200, "timeout": 60}) as answer:
                    assert answer.status == 200
                    return await answer.json()

            call = asyncio.create_task(bulk())
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda pending: pending > 0, "the call is queued")
            server.terminate(signal.SIGTERM)
            body = await call
            assert body["status"] == "success"
            assert len(body["results"]) == 200
        assert await asyncio.to_thread(server.end) == 0


async def test_a_stream_under_way_is_sent_whole_by_a_drain() -> None:
    with running(SLOW) as server:
        async with client(server) as http:
            body = {"inputs": ["x" * 500] * 200, "timeout": 60}
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
            assert await post_status(http, "a", 3) == [200] * 3
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
            told = subprocess.run([*command, "drain"], env=clean, timeout=60, check=False)
            assert told.returncode == 0
            process.terminate()
            assert process.wait(60) == 0  # without the delay, so it was told
        finally:
            process.kill()
