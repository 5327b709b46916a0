"""The application over a processor that follows a script: streams, answers that break off, clients that leave, the log of a fault."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from dtesn_api.wire import BatchItem, EngineIntegration, ModelInfo, PerformanceMetrics, ProcessedOutput
from dtesn_sidecar import outputs, routes_bulk
from dtesn_sidecar.compute import offload
from dtesn_sidecar.errors import Draining, WorkerLost
from dtesn_sidecar.health import Gate, Phase
from dtesn_sidecar.logs import LINES, AccessLog, LineFormatter
from dtesn_sidecar.metrics import Gauges, Metrics
from dtesn_sidecar.outputs import BatchOutcome, Processed, Timing
from dtesn_sidecar.routes import Parts, application
from dtesn_sidecar.routes_connection import CONNECTION, Connection
from dtesn_sidecar.routes_edge import Edge

Script = Callable[[], AsyncGenerator[BatchOutcome, None]]
BULK = "/dtesn/batch_process"
PROCESS = "/dtesn/process_with_batching"


QUICK = Timing(0.1, 0.0, 0.01, 0.02, 2, "full")


def success(index: int, timing: Timing = QUICK) -> BatchOutcome:
    output = ProcessedOutput(output="summary", nodes=1, height=0, model=ModelInfo(name="m", seed=1, membrane_depth=1, esn_size=32))
    marks = EngineIntegration(batch_processed=True, dynamic_batching=True, batch_manager_active=True)
    return BatchOutcome(index, "success", Processed(output, 1.0, marks, timing))


def failure(index: int, text: str = "ending") -> BatchOutcome:
    return BatchOutcome(index, "error", error=Draining(text))


class Scripted:
    """The processor: what it yields is the script's."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def decode(self, body: bytes, kind: Any) -> Any:
        return offload.decode(body, kind, 100)

    def stream_batch(self, *_arguments: object, **_options: object) -> AsyncGenerator[BatchOutcome, None]:
        return self.script()

    async def encode(self, body: Any) -> bytes:
        return outputs.encode(body)

    def performance_metrics(self) -> PerformanceMetrics:
        return PerformanceMetrics(
            batching_enabled=True, current_batch_size=1, batch_throughput_improvement=None, avg_server_load=None, pending_requests=0
        )


class Served:
    """One such server, and what it told."""

    def __init__(self, port: int, metrics: Metrics, gate: Gate, lines: list[bytes], access: AccessLog) -> None:
        self.port, self._metrics, self.gate, self._lines, self._access = port, metrics, gate, lines, access

    def count(self, sample: str) -> float:
        text = self._metrics.exposition("")[0].decode()
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample)), 0.0)

    def records(self) -> list[dict[str, Any]]:
        self._access.close()
        return [json.loads(line) for line in b"".join(self._lines).splitlines()]

    async def ask(
        self, body: object, *, path: str = BULK, accept: str = "application/x-ndjson"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request on a connection of its own; what comes back is read from there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAccept: {accept}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        return reader, writer


@asynccontextmanager
async def serving(processor: Scripted) -> AsyncIterator[Served]:
    loop = asyncio.get_running_loop()
    metrics = Metrics("m", Gauges(snapshot=lambda: None, load=lambda: (None, []), config_hash=lambda: None, memory_bytes=lambda: None))
    gate = Gate()
    lines: list[bytes] = []
    gate.phase = Phase.SERVING
    access = AccessLog("json", loop, lines.append)
    edge = Edge(gate, metrics, access)
    parts: Any = Parts(processor, gate, edge, metrics, lambda: None, lambda: None, 1 << 20)  # type: ignore[arg-type, return-value]
    runner = web.AppRunner(application(parts), handle_signals=False, handler_cancellation=True, shutdown_timeout=1, **CONNECTION)
    await runner.setup()
    server: Any = runner.server
    listener = await loop.create_server(lambda: Connection(edge, server, loop), "127.0.0.1", 0)
    try:
        async with asyncio.timeout(250):
            yield Served(listener.sockets[0].getsockname()[1], metrics, gate, lines, access)
    finally:
        listener.close()
        await runner.cleanup()
        access.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def line_of(reader: asyncio.StreamReader) -> dict[str, Any]:
    """One chunk, which is one line."""
    size = int(await reader.readline(), 16)
    line = await reader.readexactly(size + 2)
    return json.loads(line)


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_line_goes_out_while_the_next_input_is_still_computed() -> None:
    computed = asyncio.Event()

    async def script() -> AsyncGenerator[BatchOutcome, None]:
        yield success(0)
        await computed.wait()
        yield success(1)

    async with serving(Scripted(script)) as server:
        reader, writer = await server.ask({"inputs": ["a", "b"]})
        assert b"200 OK" in await head_of(reader)
        assert (await line_of(reader))["index"] == 0
        assert server.gate.inside == 1
        computed.set()
        assert (await line_of(reader))["index"] == 1
        assert await reader.readline() == b"0\r\n"
        writer.close()


async def test_an_answer_that_cannot_be_written_is_an_error_line_and_the_stream_goes_on() -> None:
    class Dying(Scripted):
        async def encode(self, body: Any) -> bytes:
            if isinstance(body, BatchItem) and body.index == 1 and body.status == "success":
                raise WorkerLost("the helper process died")
            return await super().encode(body)

    async def script() -> AsyncGenerator[BatchOutcome, None]:
        for index in range(3):
            yield success(index)

    async with serving(Dying(script)) as server:
        reader, writer = await server.ask({"inputs": ["a"] * 3})
        await head_of(reader)
        lines = [await line_of(reader) for _ in range(3)]
        assert [line["status"] for line in lines] == ["success", "error", "success"]
        assert (lines[1]["error"]["status"], lines[1]["error"]["code"]) == (503, "worker_lost")
        assert await reader.readline() == b"0\r\n"
        writer.close()


async def test_a_stream_that_fails_midway_ends_its_connection_without_a_second_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> AsyncGenerator[BatchOutcome, None]:
        yield success(0)
        raise RuntimeError("unforeseen")

    async with serving(Scripted(script)) as server:
        reader, writer = await server.ask({"inputs": ["a", "b"]})
        answer = await reader.read()  # to the end of the connection
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.count(b"HTTP/1.1") == 1
        assert not answer.endswith(b"0\r\n\r\n")  # so that the client knows that lines are missing
        writer.close()
        (record,) = server.records()
        assert (record["status"], record["code"]) == (500, "broken_off")
        assert server.count(f'dtesn_http_responses_total{{route="{BULK}",status="500"}}') == 1
        assert server.gate.inside == 0
    (logged,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "broke off: RuntimeError" in logged.getMessage()


async def test_a_client_that_leaves_in_mid_stream_withdraws_the_rest() -> None:
    withdrawn = asyncio.Event()

    async def script() -> AsyncGenerator[BatchOutcome, None]:
        try:
            yield success(0)
            await asyncio.Event().wait()
        finally:
            withdrawn.set()

    async with serving(Scripted(script)) as server:
        reader, writer = await server.ask({"inputs": ["a", "b"]})
        await head_of(reader)
        await line_of(reader)
        assert not withdrawn.is_set()
        writer.close()
        await withdrawn.wait()
        await server.gate.empty(10)
        assert server.count("dtesn_http_disconnects_total") == 1
        assert [record["status"] for record in server.records()] == [499]


async def test_a_client_that_reads_nothing_of_its_stream_is_gone_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_bulk, "STALLED_SECONDS", 0.05)
    withdrawn = asyncio.Event()

    async def script() -> AsyncGenerator[BatchOutcome, None]:
        try:
            for index in range(100_000):
                yield failure(index, "x" * 4000)
        finally:
            withdrawn.set()

    async with serving(Scripted(script)) as server:
        reader, writer = await server.ask({"inputs": ["a", "b"]})
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await withdrawn.wait()
        await server.gate.empty(10)
        assert server.count("dtesn_http_disconnects_total") == 1
        assert [record["status"] for record in server.records()] == [499]
        writer.transport.abort()
        del reader


# -- times -------------------------------------------------------------------------------------------------------------


async def test_the_times_of_a_bulk_answer_are_in_its_header_and_its_access_line() -> None:
    async def script() -> AsyncGenerator[BatchOutcome, None]:
        yield success(0, Timing(0.1, 0.0, 0.03, 0.02, 2, "full"))
        yield failure(1)
        yield success(2, Timing(0.2, 0.0, 0.01, 0.04, 1, "window"))

    async with serving(Scripted(script)) as server:
        reader, writer = await server.ask({"inputs": ["a"] * 3}, accept="application/json")
        head = (await head_of(reader)).decode()
        assert 'Server-Timing: queue;dur=30.000, compute;dur=40.000, batch;desc="2", closed;desc="window", total;dur=' in head
        writer.close()
        reader, writer = await server.ask({"inputs": ["a"] * 3})
        head = (await head_of(reader)).decode()  # written when the first answer is there
        assert 'Server-Timing: queue;dur=30.000, compute;dur=20.000, batch;desc="2", closed;desc="full", total;dur=' in head
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()
        await server.gate.empty(10)
        for record in server.records():  # of the stream too, whose head went out before
            assert (record["queue_ms"], record["compute_ms"], record["batch"], record["closed_by"]) == (30.0, 40.0, 2, "window")


# -- faults ------------------------------------------------------------------------------------------------------------

EVIL = 'secret\n{"level": "info", "message": "forged"}\r\x1b[31m\x9b\x7f\u2028\ud800'


@pytest.fixture(params=LINES)
def log(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO]]:
    """What the package logs, as the server would write it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(LINES[request.param]))
    logger = logging.getLogger("dtesn_sidecar")
    logger.addHandler(handler)
    yield request.param, stream
    logger.removeHandler(handler)


async def test_a_fault_tells_the_client_nothing_and_the_log_one_escaped_line(log: tuple[str, io.StringIO]) -> None:
    class Faulty(Scripted):
        async def decode(self, body: bytes, kind: Any) -> Any:
            raise KeyError(json.loads(body)["input_data"]) from ValueError(EVIL)

    form, stream = log
    async with serving(Faulty(lambda: pytest.fail("not asked for"))) as server:
        reader, writer = await server.ask({"input_data": EVIL}, path=PROCESS)
        head = await head_of(reader)
        assert b" 500 " in head
        body = await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        assert b"secret" not in body
        assert json.loads(body)["code"] == "internal"
        writer.close()
        (record,) = server.records()
        assert "secret" not in json.dumps(record)
    (line,) = stream.getvalue().splitlines()
    assert all(character.isprintable() for character in line)
    assert "KeyError" in line
    if form == "json":
        assert json.loads(line)["level"] == "error"


async def test_a_request_that_waits_when_the_gate_closes_is_refused_with_the_connection() -> None:
    async with serving(Scripted(lambda: pytest.fail("not asked for"))) as server:
        server.gate.phase = Phase.CLOSED
        reader, writer = await server.ask({"inputs": ["a"]})
        answer = await reader.read()
        assert b" 503 " in answer
        assert b"Retry-After: 1" in answer
        assert b"Connection: close" in answer
        writer.close()
