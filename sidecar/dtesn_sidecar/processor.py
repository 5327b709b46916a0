"""DTESNProcessor: the only file that joins batching and the model.

One request: checked, parsed, its weights held (or built), submitted to the batch manager as a `Job`, and its array
turned into an answer. Batches and their order are the manager's, arrays are `compute`'s, answers are `outputs`'.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, Unpack

import msgspec

from dtesn_api.spec import BatchConfiguration, ModelConfiguration
from dtesn_api.wire import BatchMetricsResponse, EngineIntegration, ModelInfo, PerformanceMetrics, RequestOptions
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.batching.snapshot import Completed
from dtesn_sidecar.bulk import LEAST_TIMEOUT, bounded, chunks, floats, naming, parsed, submitted
from dtesn_sidecar.compute import offload
from dtesn_sidecar.compute.child import COMMAND
from dtesn_sidecar.compute.engine import Engine
from dtesn_sidecar.compute.job import Job, probe_of, work_of
from dtesn_sidecar.errors import Draining, InvalidInput, RequestTooLarge
from dtesn_sidecar.figures import LoadSources, batch_metrics, performance_metrics
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.readout.value import readout_of
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.model.weights import echo_state_warning
from dtesn_sidecar.outputs import BatchOutcome, Processed, Timing, encode, encode_with, large_arrays, processed_output
from dtesn_sidecar.requests import Options, Wanted, checked

if TYPE_CHECKING:
    from dtesn_sidecar.batching.budget import SchedulingBudget
    from dtesn_sidecar.batching.performance import PerformanceCalculator
    from dtesn_sidecar.batching.protocols import BatchObserver, Work
    from dtesn_sidecar.batching.strategies import BatchStrategy
    from dtesn_sidecar.compute.helper import Helper
    from dtesn_sidecar.load.tracker import ServerLoadTracker
    from dtesn_sidecar.model.backend import BackendName

log = logging.getLogger(__name__)

_METRICS_FRESH: Final = 0.05  # seconds for which the figures beside every answer are taken once

_clock: Final = time.monotonic  # not the loop's, which uvloop rounds to milliseconds and reads once per turn

R = TypeVar("R", bound=RequestOptions)


class DTESNProcessor:
    """Computes DTESNs over texts, series and trees, in dynamic batches.

    `config` is the model (None: the defaults). `batch_config`, `budget`, `strategy`, `performance` and `observer` are those
    of `DynamicBatchManager`; `server_load_tracker` is a tracker or a function that returns the load in [0, 1] or None.
    With `enable_dynamic_batching=False` every request is a batch of one.
    `workers` is the number of worker processes: None takes one per whole CPU of the container, 0 (for use as a library)
    computes in a thread of this process. `backend` is "numpy", "cupy" (a thread per device) or "auto".
    Raises InvalidInput where that is negative, and SpecInvalid with every problem where the readout that the model names cannot be
    served: unreadable, changed since it was written, or fitted for another reservoir.
    `weights_folder` is where the temporary folder of weights is made; `worker_command` starts a child (for tests).

    Use it with `async with`, or `start_batch_manager()` and `stop_batch_manager()`, on one event loop.
    """

    def __init__(
        self,
        config: ModelConfiguration | None = None,
        enable_dynamic_batching: bool = True,
        batch_config: BatchConfiguration | None = None,
        server_load_tracker: ServerLoadTracker | Callable[[], float | None] | None = None,
        *,
        workers: int | None = 0,
        backend: BackendName = "auto",
        budget: SchedulingBudget | None = None,
        strategy: str | BatchStrategy | None = None,
        performance: str | PerformanceCalculator | None = None,
        observer: BatchObserver | None = None,
        weights_folder: Path | None = None,
        worker_command: Sequence[str] = COMMAND,
    ) -> None:
        self.config = config if config is not None else ModelConfiguration()
        self.readout = readout_of(self.config)
        self.batching_enabled = enable_dynamic_batching
        self._load = LoadSources(server_load_tracker)
        layer = None if self.readout is None else self.readout.layer
        self._engine = Engine(
            self.config, workers=workers, backend=backend, weights_folder=weights_folder, command=worker_command, readout=layer
        )
        self._probes = 0
        self._building = 0
        self._built = asyncio.Event()
        self._draining = False
        self._starting = asyncio.Lock()
        self._started = False
        self._widest = 1  # most children of a node so far, of inputs that could still bring a warning
        self._metrics: tuple[float, PerformanceMetrics] | None = None
        self._info: dict[tuple[int, int], ModelInfo] = {}
        self.manager = DynamicBatchManager(
            batch_config,
            self._load.current if server_load_tracker is not None else None,
            budget=budget,
            cost=partial(work_of, self.config),
            strategy=strategy,
            performance=performance,
            observer=observer,
            probe=self._probe,
            clock=_clock,
        )

    # -- life ----------------------------------------------------------------------------------------------------

    async def start_batch_manager(self) -> None:
        """Build the model, start the workers and the batch manager. A second call does nothing.

        Raises BackendUnavailable, WorkerLost where workers do not start, or what building the model raised.
        """
        async with self._starting:
            if not self._started:
                await self._start()

    async def _start(self) -> None:
        self.manager.process = await self._engine.start()
        try:
            await self.manager.start()
        except BaseException:
            await self._engine.stop()
            raise
        self._started, self._draining = True, False

    async def stop_batch_manager(self) -> None:
        """Answer everything accepted, then end the workers and remove the weights. Idempotent."""
        if not self._started:
            return
        try:
            await self.drain()
        finally:
            self._started = False
            await self.manager.stop(drain=False)
            await self._engine.stop()

    async def drain(self) -> None:
        """Refuse new requests and return once everything accepted is answered."""
        self._draining = True
        while self._building:
            self._built.clear()
            await self._built.wait()
        await self.manager.drain()

    async def __aenter__(self) -> Self:
        await self.start_batch_manager()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop_batch_manager()

    def reconfigure(self, batch_config: BatchConfiguration) -> None:
        """Swap the batching configuration in, between two batches."""
        self.manager.reconfigure(batch_config)

    # -- what runs -----------------------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """The backend taken at the start: `numpy` or `cupy`; until then the one asked for."""
        return self._engine.backend

    @property
    def device(self) -> str:
        """The device in words, once started."""
        return self._engine.device

    @property
    def workers(self) -> int:
        """Batches that can run at once, once started."""
        return self._engine.workers

    @property
    def worker_restarts(self) -> int:
        """Workers that died or hung and were replaced."""
        return self._engine.restarts

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive; empty where compute runs in this process."""
        return self._engine.pids

    @property
    def helper(self) -> Helper:
        """The process for decoding and encoding that must not stall the event loop."""
        return self._engine.helper

    @property
    def model_bytes(self) -> int:
        """Bytes of weights kept beside the configured model's."""
        return self._engine.store.built_bytes

    # -- requests ------------------------------------------------------------------------------------------------

    async def process_with_dynamic_batching(
        self,
        input_data: object,
        *,
        input_format: str = "auto",
        membrane_depth: int | None = None,
        esn_size: int | None = None,
        priority: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109 - the contract's name; it bounds queue and compute
        enable_batching: bool = True,
        model: str | None = None,
        output: str | None = None,
        accepted_at: float | None = None,
    ) -> Processed:
        """Compute one input, together with others where that is sooner.

        `input_data` is a text, a series, a tree (see the input formats) or a parsed `Tree`. `timeout` in seconds covers
        building, queue and compute. `accepted_at` (`time.monotonic`) is when the request arrived, if that was earlier. Raises
        the errors of `dtesn_sidecar.errors`, each with its HTTP status.
        """
        began = _clock() if accepted_at is None else accepted_at
        wanted = self._checked(
            membrane_depth=membrane_depth, esn_size=esn_size, priority=priority, timeout=timeout, model=model, output=output
        )
        tree = input_data if isinstance(input_data, Tree) else parse_input(input_data, input_format, max_nodes=self.config.max_nodes)
        self._warn_of(tree)
        job = Job(tree, wanted.depth, wanted.esn_size, wanted.output)
        build, left = await self._hold(wanted)
        try:
            completed = await self.manager.submit_detailed(job, priority, left, direct=not (enable_batching and self.batching_enabled))
        except RequestTooLarge as error:
            raise naming(error, "input_data") from None
        finally:
            self._engine.store.release(wanted.esn_size)
        return self._processed(job, completed, began, build)

    async def process_batch(
        self,
        inputs: Sequence[object],
        *,
        enable_load_balancing: bool = True,
        input_format: str = "auto",
        accepted_at: float | None = None,
        **options: Unpack[Options],
    ) -> list[BatchOutcome]:
        """Compute many inputs in chunks; the outcomes in their order, each with its own status.

        `options` are those of `process_with_dynamic_batching`. `enable_load_balancing` spreads the inputs over several
        dynamic batches by cost. An entry of `inputs` may also be an exception, which is then its outcome. Raises only for
        what is wrong with the call as a whole, and RequestTooLarge where the outcomes would be more than 64 MiB.
        """
        outcomes = [
            outcome
            async for outcome in self.stream_batch(
                inputs,
                enable_load_balancing=enable_load_balancing,
                input_format=input_format,
                accepted_at=accepted_at,
                held=True,
                **options,
            )
        ]
        return sorted(outcomes, key=lambda outcome: outcome.index)

    async def stream_batch(
        self,
        inputs: Sequence[object],
        *,
        enable_load_balancing: bool = True,
        input_format: str = "auto",
        accepted_at: float | None = None,
        held: bool = False,
        **options: Unpack[Options],
    ) -> AsyncGenerator[BatchOutcome, None]:
        """As `process_batch`, each outcome as soon as it is known. A chunk begins when the last one was taken.

        With `held` the caller keeps all outcomes, and their size is bounded as that of `process_batch`.
        """
        began = _clock() if accepted_at is None else accepted_at
        if not inputs:
            raise InvalidInput("inputs is empty, expected at least one", field="inputs", value="empty", expected="at least one")
        wanted = self._checked(**options)
        numbers = floats(wanted, 0 if self.readout is None else self.readout.outputs)
        if held:
            bounded(len(inputs), numbers)
        build, left = await self._hold(wanted)
        until = None if left is None else _clock() + left
        try:
            for chunk in chunks(len(inputs), numbers):
                jobs: dict[int, Job] = {}
                async for index, job in parsed(inputs, chunk, wanted, input_format, self.config.max_nodes):
                    if isinstance(job, Job):
                        jobs[index] = job
                        self._warn_of(job.tree)
                    else:
                        yield BatchOutcome(index, "error", error=job)
                left = None if until is None else max(until - _clock(), LEAST_TIMEOUT)
                direct = not self.batching_enabled
                answers = submitted(self.manager, jobs, wanted.priority, left, direct=direct, spread=enable_load_balancing)
                async with aclosing(answers):  # whoever closes this iterator withdraws the rest at once
                    async for index, outcome in answers:
                        if isinstance(outcome, Completed):
                            yield BatchOutcome(index, "success", self._processed(jobs[index], outcome, began, build))
                        else:
                            yield BatchOutcome(index, "error", error=naming(outcome, f"inputs[{index}]"))
        finally:
            self._engine.store.release(wanted.esn_size)

    # -- bodies --------------------------------------------------------------------------------------------------

    async def decode(self, body: bytes, kind: type[R]) -> R:
        """The request that a body says, its input parsed to a `Tree` (in `inputs`: each to a Tree or its own error).

        Bodies over 64 KiB are decoded in a helper process. Raises MalformedBody, SpecInvalid, InvalidInput, RequestTooLarge.
        """
        if len(body) <= offload.LARGE_BODY:
            return offload.decode(body, kind, self.config.max_nodes)
        return await offload.decode_in(self._engine.helper, body, kind, self.config.max_nodes)

    async def encode(self, body: msgspec.Struct) -> bytes:
        """The JSON of an answer; more than 16,384 numbers in it are written by a helper process."""
        arrays = large_arrays(body)
        if not arrays:
            return encode(body)
        texts = await offload.encode_floats_in(self._engine.helper, arrays)
        return encode_with(body, dict(zip(map(id, arrays), texts, strict=True)))

    # -- figures -------------------------------------------------------------------------------------------------

    def batch_metrics(self) -> BatchMetricsResponse:
        """The body of `GET /dtesn/batch_metrics`."""
        return batch_metrics(self.manager.snapshot(), self._load.by_name(), enabled=self.batching_enabled)

    def performance_metrics(self) -> PerformanceMetrics:
        """The figures beside an answer, at most 50 ms old."""
        now = _clock()
        if self._metrics is None or not 0 <= now - self._metrics[0] < _METRICS_FRESH:
            self._metrics = now, performance_metrics(self.manager.snapshot(), enabled=self.batching_enabled)
        return self._metrics[1]

    # -- inside --------------------------------------------------------------------------------------------------

    def _checked(self, **options: Unpack[Options]) -> Wanted:
        if not self._started or self._draining:
            raise Draining("the server is shutting down" if self._draining else "the batch manager is not running", retry_after=1.0)
        return checked(self.config, self.manager.config.max_timeout, readout=self.readout, **options)

    def _warn_of(self, tree: Tree) -> None:
        """Warn once of a tree whose nodes have so many children that states may not forget how they began."""
        if tree.is_chain or tree.degree <= self._widest:
            return
        self._widest = tree.degree
        if (words := echo_state_warning(self.config, tree.degree)) is not None:
            self._widest = self.config.max_nodes  # no tree is wider
            log.warning("an input is wider than the model is stable for: %s; this is said once", words)

    async def _hold(self, wanted: Wanted) -> tuple[float, float | None]:
        """Hold the weights, built if need be; the seconds that took and those left of the timeout."""
        if self._engine.store.hold(wanted.esn_size, wanted.depth):
            return 0.0, wanted.timeout
        began = _clock()
        seconds = self.manager.default_timeout() if wanted.timeout is None else wanted.timeout
        self._building += 1
        try:
            await self._engine.store.built(wanted.esn_size, wanted.depth, seconds)
        finally:
            # One turn later, so that a drain that waits for this does not overtake the request on its way to the queue.
            asyncio.get_running_loop().call_soon(self._left_building)
        spent = _clock() - began
        return spent, max(seconds - spent, LEAST_TIMEOUT)

    def _left_building(self) -> None:
        self._building -= 1
        self._built.set()

    def _processed(self, job: Job, completed: Completed, began: float, build: float) -> Processed:
        total = _clock() - began
        key = (job.depth, job.esn_size)
        info = self._info.get(key)
        if info is None:
            config = self.config
            info = self._info[key] = ModelInfo(name=config.name, seed=config.seed, membrane_depth=job.depth, esn_size=job.esn_size)
        return Processed(
            processed_output(job, completed.value, info, self.readout),
            1000.0 * total,
            EngineIntegration(
                batch_processed=completed.batch_items > 1, dynamic_batching=not completed.direct, batch_manager_active=self.manager.alive
            ),
            Timing(total, build, completed.queue_seconds, completed.compute_seconds, completed.batch_items, completed.closed_by),
        )

    def _probe(self) -> tuple[Job, Work]:
        self._probes += 1
        job = probe_of(self.config, self._probes)
        return job, work_of(self.config, job)
