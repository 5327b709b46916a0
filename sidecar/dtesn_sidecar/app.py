"""The composition root: what is made of what, in which order it starts, follows its file, and ends.

Start: configuration, loop, listener (so that the probes answer), workers, ready. End: readiness fails, new requests
are served for the drain delay, the listener closes, everything accepted is answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import uvloop
from aiohttp import web
from msgspec.structs import replace

from dtesn_api.problems import Problem, SpecInvalid
from dtesn_api.schema import to_wire
from dtesn_api.wire import ConfigResponse
from dtesn_sidecar import cgroup, runfile
from dtesn_sidecar.background import kept_going
from dtesn_sidecar.config import Configuration, adopt, changes, watch
from dtesn_sidecar.health import Gate, Phase
from dtesn_sidecar.listening import stop_listening
from dtesn_sidecar.load.providers import Inputs, sources
from dtesn_sidecar.load.tracker import ServerLoadTracker
from dtesn_sidecar.logs import AccessLog
from dtesn_sidecar.metrics import Gauges, Metrics
from dtesn_sidecar.oip.extra import listen_rpc
from dtesn_sidecar.pages import Live, Sources, add_page
from dtesn_sidecar.processor import DTESNProcessor
from dtesn_sidecar.routes import Parts, application
from dtesn_sidecar.routes_body import BODY_SECONDS
from dtesn_sidecar.routes_connection import CONNECTION, Connection, dismiss
from dtesn_sidecar.routes_edge import Edge
from dtesn_sidecar.routes_turnstile import Turnstile
from dtesn_sidecar.traces import both, traces_for

if TYPE_CHECKING:
    from dtesn_sidecar.batching.snapshot import ManagerSnapshot
    from dtesn_sidecar.oip.rpc.listener import Listener

log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_CLOSE_SECONDS: Final = 10.0  # for answers that are still on their way to slow readers
_FAREWELL_SECONDS: Final = 1.0  # for clients to close the connections that they were told are done with
_FOLLOW_AGAIN_SECONDS: Final = 5.0
_SECTIONS: Final = ("dynamicBatching", "model", "backend", "batching", "load", "sidecar")
_OPERATORS: Final = ("resources", "env")  # of `sidecar`; values of env may be secret


class _Loop(uvloop.Loop):
    """uvloop with exact time: its own is the last turn's, in whole milliseconds, too coarse for times that are reported and learnt from."""

    def time(self) -> float:
        return time.monotonic()


def new_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the server."""
    return _Loop()


class Sidecar:
    """One server. `run` returns once it has drained; `begin_leaving` and `begin_end` are what the signals do."""

    def __init__(self, configuration: Configuration, environ: Mapping[str, str], flags: Mapping[str, object]) -> None:
        self._running = configuration
        self._environ, self._flags = environ, flags
        self._errors: list[Problem] = []
        self._needs_restart: list[str] = []
        self._gate = Gate()
        self._ending = asyncio.Event()
        self._skip_delay = False
        self._rpc: Listener | None = None
        spec = configuration.spec
        self._traces = traces_for(environ)
        self._tracker = ServerLoadTracker()
        self._metrics = Metrics(
            spec.model.name,
            Gauges(
                snapshot=self._snapshot,
                load=lambda: (self._tracker.get_current_load(), self._tracker.readings()),
                config_hash=lambda: self._running.config_hash,
                memory_bytes=self._memory,
                worker_restarts=lambda: self._processor.worker_restarts,
            ),
        )
        self._processor = DTESNProcessor(
            spec.model,
            spec.dynamic_batching,
            spec.batching,
            self._tracker,
            workers=None,
            backend=spec.backend,
            observer=self._metrics if self._traces is None else both(self._metrics, self._traces),
        )
        self._live = Live(Sources(self._gate, self._snapshot, self._processor.batch_metrics, self._metrics.totals))
        self._configure_load()

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self, host: str, port: int, announce: IO[str], *, grpc_port: int | None = None) -> None:
        """Serve until a signal ends it. The bound addresses, and then that it is ready, are written to `announce`.

        With `grpc_port` (0: any) the Open Inference Protocol is served over gRPC too. Raises OSError where it cannot listen,
        Unavailable where the extra `grpc` is not installed, and what starting the workers raised.
        """
        loop = asyncio.get_running_loop()
        spec = self._running.spec
        access = AccessLog(spec.sidecar.logging.format, loop) if spec.sidecar.logging.level in ("debug", "info") else None
        edge = Edge(self._gate, self._metrics, access, self._traces)
        parts = Parts(self._processor, self._gate, edge, self._metrics, self._snapshot, self._config_response, spec.sidecar.max_body_bytes)
        served = application(parts)
        add_page(served, self._live, edge)
        runner = web.AppRunner(served, handle_signals=False, handler_cancellation=True, shutdown_timeout=_CLOSE_SECONDS, **CONNECTION)
        await runner.setup()
        background: list[asyncio.Task[None]] = []
        try:
            assert runner.server is not None  # noqa: S101 - set by setup
            server = runner.server
            # With traces each refusal is a span of its own, which the usual way makes.
            turnstile = None if self._traces is not None else Turnstile(edge, self._gate, self._processor, parts.max_body_bytes)
            listener = await loop.create_server(lambda: Connection(edge, server, loop, turnstile), host, port, backlog=_BACKLOG)
            bound = listener.sockets[0].getsockname()[1]
            runs = self._run_file(bound)
            self._handle_signals(loop)
            _say(announce, f"listening on http://{f'[{host}]' if ':' in host else host}:{bound}")
            going = {"measuring the event loop's lag": self._metrics.measure_loop_lag, "the live page": self._live.run}
            background = [loop.create_task(kept_going(what, run)) for what, run in going.items()]
            try:
                if grpc_port is not None:
                    self._rpc = await listen_rpc(parts.inference, edge, host, grpc_port)
                    _say(announce, f"listening on grpc://{f'[{host}]' if ':' in host else host}:{self._rpc.port}")
                if await self._started():
                    background.append(loop.create_task(self._follow_file()))
                    self._gate.phase = Phase.LEAVING if self._skip_delay else Phase.SERVING
                    _say(announce, f"ready: {self._processor.backend}, {self._processor.workers} workers")
                    await self._ending.wait()
                    await self._drain(listener)
                else:
                    await stop_listening(listener)
                self._live.close()
                await dismiss(server, edge.farewell, _FAREWELL_SECONDS)
            finally:
                listener.close()
                if runs is not None:
                    runs.close()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            if self._rpc is not None:
                await self._rpc.stop(_CLOSE_SECONDS)
            await self._processor.stop_batch_manager()
            await runner.cleanup()
            await self._tracker.aclose()
            if self._traces is not None:
                await self._traces.aclose()
            if access is not None:
                await asyncio.to_thread(access.close)

    def begin_leaving(self) -> None:
        """Readiness fails; requests are served as before. What `dtesn-sidecar drain` does from a preStop hook."""
        if self._gate.phase in (Phase.STARTING, Phase.SERVING):
            log.info("leaving: readiness fails, requests are still served")
            self._skip_delay = True
            if self._gate.phase is Phase.SERVING:
                self._gate.phase = Phase.LEAVING

    def begin_end(self, *, delay: bool = True) -> None:
        """Drain and end, `delay`: after the drain delay. A second call only logs."""
        if self._ending.is_set():
            log.info("already draining: %d requests inside", self._gate.inside)
            return
        log.info("draining: %d requests inside", self._gate.inside)
        self._skip_delay = self._skip_delay or not delay
        if self._gate.phase is Phase.SERVING:
            self._gate.phase = Phase.LEAVING
        self._ending.set()

    async def _started(self) -> bool:
        """Make model and workers ready; False where a signal ended that."""
        starting = asyncio.ensure_future(self._processor.start_batch_manager())
        ended = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait([starting, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return False
        await starting
        self._tracker.get_current_load()  # starts the polling
        return True

    async def _drain(self, listener: asyncio.Server) -> None:
        spec = self._running.spec
        if not self._skip_delay:
            await asyncio.sleep(spec.sidecar.drain_delay_seconds)
        await stop_listening(listener)
        self._gate.phase = Phase.CLOSED
        self._processor.reconfigure(replace(spec.batching, min_batch_wait_ms=0.0, max_batch_wait_ms=0.0))  # windows close at once
        longest = spec.batching.max_timeout + BODY_SECONDS
        if not await self._gate.empty(longest):  # a bulk call goes on submitting, so the manager is drained only then
            log.warning(
                "%d requests are still inside after %g s (a stream that is read slowly): they are cut off", self._gate.inside, longest
            )
        await self._processor.drain()
        log.info("drained")

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number, act in (
            (signal.SIGTERM, self.begin_end),
            (signal.SIGINT, lambda: self.begin_end(delay=False)),  # someone at a terminal, behind whom no endpoints lag
            (signal.SIGUSR1, self.begin_leaving),
        ):
            loop.add_signal_handler(number, act)

    def _run_file(self, port: int) -> IO[str] | None:
        where = runfile.folder(self._environ)
        try:
            return runfile.write(where, port)
        except OSError as error:
            log.warning("`dtesn-sidecar drain` will not find this server: %s", error)
            return None

    # -- configuration -------------------------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        while True:
            try:
                async for wanted in watch(self._running, self._environ, self._flags):
                    self._take(wanted)
                return  # there is no file
            except Exception as error:  # whatever it is, a server without live reload must not look like one with it
                log.exception("the configuration file could not be followed")
                words = f"the file could not be followed: {type(error).__name__}: {error}; it will be tried again"
                self._errors = [Problem(field=str(self._running.source), value=None, expected="a file that can be followed", message=words)]
                self._metrics.reload_failed()
            await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)

    def _take(self, wanted: Configuration | SpecInvalid) -> None:
        """Swap a new version of the file in, or keep the settings and say why."""
        if isinstance(wanted, Configuration):
            try:
                adopted = adopt(self._running, wanted)
            except SpecInvalid as error:
                wanted = error
            else:
                live, restart = changes(self._running.spec, wanted.spec)
                self._running, self._errors, self._needs_restart = adopted, [], list(restart)
                self._processor.reconfigure(adopted.spec.batching)
                self._configure_load()
                changed = f"changed: {_words(live)}; at the next start: {_words(restart)}"
                log.info("configuration %s in force; %s", adopted.config_hash, changed)
                return
        self._errors = list(wanted.problems)
        self._metrics.reload_failed()
        log.error("the configuration file was not taken: %s", wanted)

    def _configure_load(self) -> None:
        inputs = Inputs(busy_share=self._processor.manager.busy_share, clock=asyncio.get_running_loop().time)
        self._tracker.configure(sources(self._running.spec.load, inputs))

    def _config_response(self) -> ConfigResponse:
        running = self._running
        return ConfigResponse(
            config_hash=running.config_hash,
            source=None if running.source is None else str(running.source),
            backend=self._processor.backend,
            device=self._processor.device,
            workers=self._processor.workers,
            version=version("dtesn-batcher"),
            spec=shown(to_wire(running.spec)),
            reload_errors=self._errors,
            needs_restart=self._needs_restart,
        )

    # -- figures -------------------------------------------------------------------------------------------------

    def _snapshot(self) -> ManagerSnapshot | None:
        try:
            return self._processor.manager.snapshot()
        except RuntimeError:  # it has not started yet
            return None

    def _memory(self) -> int | None:
        return cgroup.resident_bytes(self._processor.worker_pids or [os.getpid()])


def shown(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that the sidecar reads, without what may be secret: environment values, queries and users of URLs."""
    whole: dict[str, Any] = {name: spec[name] for name in _SECTIONS}
    whole["sidecar"] = {name: value for name, value in spec["sidecar"].items() if name not in _OPERATORS}
    load = dict(spec["load"])
    load["prometheus"] = [source | {"url": _bare_url(source["url"])} for source in load["prometheus"]]
    if "engine" in load:
        load["engine"] = load["engine"] | {"url": _bare_url(load["engine"]["url"])}
    return whole | {"load": load}


def _bare_url(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _words(paths: tuple[str, ...]) -> str:
    return ", ".join(paths) or "nothing"


def _say(announce: IO[str], words: str) -> None:
    print(words, file=announce, flush=True)
