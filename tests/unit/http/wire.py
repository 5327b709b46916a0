"""One connection without a network: pieces go in, what is written comes out. And the application over a processor that answers at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from dtesn_api.wire import EngineIntegration, ModelInfo, PerformanceMetrics, ProcessedOutput
from dtesn_sidecar import outputs
from dtesn_sidecar.compute import offload
from dtesn_sidecar.errors import DTESNError
from dtesn_sidecar.health import Gate, Phase
from dtesn_sidecar.logs import AccessLog
from dtesn_sidecar.metrics import Gauges, Metrics
from dtesn_sidecar.outputs import Processed, Timing
from dtesn_sidecar.routes import Parts, application
from dtesn_sidecar.routes_connection import CONNECTION, Connection
from dtesn_sidecar.routes_edge import Edge
from dtesn_sidecar.routes_turnstile import Turnstile

PROCESS = "/dtesn/process_with_batching"
MAX_BODY = 4096
TurnAway = Callable[[int, float | None, bool], DTESNError | None]


class Quick:
    """The processor: every input has the same answer. `turn_away` is the manager's; it may raise what `submit` would."""

    batching_enabled = True

    def __init__(self, turn_away: TurnAway) -> None:
        self.asked: list[tuple[int, float | None, bool]] = []
        self._turn_away = turn_away
        self.manager = SimpleNamespace(turn_away=self._ask)

    def _ask(self, priority: int, timeout: float | None, *, direct: bool) -> DTESNError | None:
        self.asked.append((priority, timeout, direct))
        return self._turn_away(priority, timeout, direct)

    async def decode(self, body: bytes, kind: Any) -> Any:
        return offload.decode(body, kind, 100)

    async def process_with_dynamic_batching(self, *_inputs: object, **_options: object) -> Processed:
        output = ProcessedOutput(output="summary", nodes=1, height=0, model=ModelInfo(name="m", seed=1, membrane_depth=1, esn_size=32))
        marks = EngineIntegration(batch_processed=True, dynamic_batching=True, batch_manager_active=True)
        return Processed(output, 1.0, marks, Timing(0.1, 0.0, 0.01, 0.02, 2, "full"))

    async def encode(self, body: Any) -> bytes:
        return outputs.encode(body)

    def performance_metrics(self) -> PerformanceMetrics:
        return PerformanceMetrics(
            batching_enabled=True, current_batch_size=1, batch_throughput_improvement=None, avg_server_load=None, pending_requests=0
        )


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 7)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@dataclass(frozen=True)
class Response:
    """One response. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def responses(written: bytes) -> list[Response]:
    """What was written, taken apart; an interim one (100) too."""
    found = []
    while written:
        head, _, written = written.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = int(headers.get("content-length", "0"))
        found.append(Response(int(line.split(" ")[1]), headers, written[:length]))
        written = written[length:]
    return found


@dataclass
class Line:
    """One connection to such a server."""

    connection: Connection
    transport: Wire
    processor: Quick
    gate: Gate
    edge: Edge
    _metrics: Metrics
    _access: AccessLog
    _lines: list[bytes] = field(default_factory=list)

    async def settle(self) -> None:
        """Until nothing moves any more: every step of a request takes a turn of the loop."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def send(self, piece: bytes) -> list[Response]:
        """The responses to a piece."""
        before = len(self.transport.written)
        self.connection.data_received(piece)
        await self.settle()
        return responses(bytes(self.transport.written[before:]))

    def count(self, sample: str) -> float:
        """A sample of the metrics."""
        text = self._metrics.exposition("")[0].decode()
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample)), 0.0)

    def records(self) -> list[dict[str, Any]]:
        """The access lines; the log is closed then."""
        self._access.close()
        return [json.loads(line) for line in b"".join(self._lines).splitlines()]


@asynccontextmanager
async def connected(turn_away: TurnAway | None = None) -> AsyncIterator[Line]:
    """A connection; requests are turned away as the function says. None: the server has no turnstile."""
    loop = asyncio.get_running_loop()
    metrics = Metrics("m", Gauges(snapshot=lambda: None, load=lambda: (None, []), config_hash=lambda: None, memory_bytes=lambda: None))
    gate, lines = Gate(), list[bytes]()
    gate.phase = Phase.SERVING
    access = AccessLog("json", loop, lines.append)
    edge = Edge(gate, metrics, access)
    processor: Any = Quick(turn_away or (lambda *_: None))
    parts: Any = Parts(processor, gate, edge, metrics, lambda: None, lambda: None, MAX_BODY)  # type: ignore[arg-type, return-value]
    runner = web.AppRunner(application(parts), handle_signals=False, handler_cancellation=True, shutdown_timeout=1, **CONNECTION)
    await runner.setup()
    server: Any = runner.server
    turnstile = None if turn_away is None else Turnstile(edge, gate, processor, MAX_BODY)
    connection, transport = Connection(edge, server, loop, turnstile), Wire()
    connection.connection_made(transport)
    line = Line(connection, transport, processor, gate, edge, metrics, access, lines)
    await line.settle()
    try:
        yield line
    finally:
        connection.connection_lost(None)
        await line.settle()
        await runner.cleanup()
        access.close()


def post(body: object = None, *, path: str = PROCESS, length: bool = True, **headers: str) -> bytes:
    """A POST as bytes. Header names are given with underscores."""
    data = body if isinstance(body, bytes) else json.dumps({"input_data": "ab"} if body is None else body).encode()
    fields = {"Host": "a", "Content-Type": "application/json", **({"Content-Length": str(len(data))} if length else {})}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + data
