"""Everything that computes, as one: the backend, the workers, the weights, and the helper processes; started and ended together.

What is computed, and when, is decided by those who use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dtesn_sidecar import cgroup
from dtesn_sidecar.compute import building
from dtesn_sidecar.compute.child import COMMAND
from dtesn_sidecar.compute.helper import Helper
from dtesn_sidecar.compute.inline import ThreadRunner
from dtesn_sidecar.compute.pool import ProcessPool
from dtesn_sidecar.compute.process import BUILDER_NICE, WORKER_NICE
from dtesn_sidecar.compute.store import WeightStore
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.backend import select_backends

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_sidecar.model.backend import Backend, BackendName
    from dtesn_sidecar.model.readout.value import OutputLayer

log = logging.getLogger(__name__)


class Engine:
    """The compute of one model. `workers` is the number of processes: None takes one per whole CPU, 0 a thread of this process.
    `readout` is applied where features are computed.

    `store` holds the weights, `helper` decodes and encodes, `runner` (once started) runs batches.
    """

    def __init__(
        self,
        model: ModelConfiguration,
        *,
        workers: int | None,
        backend: BackendName,
        weights_folder: Path | None = None,
        command: Sequence[str] = COMMAND,
        readout: OutputLayer | None = None,
    ) -> None:
        if workers is not None and workers < 0:
            raise InvalidInput(f"workers is {workers}, expected 0 or more", field="workers", value=workers, expected="0 or more")
        self._model, self._workers, self._backend_name, self._command = model, workers, backend, tuple(command)
        self._readout = readout
        self._backends: list[Backend] = []
        self.runner: ProcessPool | ThreadRunner | None = None
        self._builder, self.helper = self._make_helpers()
        self.store = WeightStore(model, self._build, parent=weights_folder, forget=self._forget)

    async def start(self) -> ProcessPool | ThreadRunner:
        """Choose the backend, build the model and start the workers.

        Raises BackendUnavailable, WorkerLost where workers do not start, or what building the model raised.
        """
        self._builder, self.helper = self._make_helpers()
        self._backends = await asyncio.to_thread(select_backends, self._backend_name)
        runner = self.runner = self._make_runner(self._backends)
        log.info("backend %s on %s, %d workers", self.backend, self.device, runner.workers)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.store.start())
                group.create_task(runner.start())
        except BaseExceptionGroup as error:
            await self.stop()
            raise error.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise
        return runner

    async def stop(self) -> None:
        """End the workers and the helpers and remove the weights. Idempotent."""
        if self.runner is not None:
            await self.runner.stop()
        await asyncio.gather(self._builder.stop(), self.helper.stop())
        await self.store.stop()

    @property
    def backend(self) -> str:
        """The backend taken at the start: `numpy` or `cupy`; until then the one asked for."""
        return self._backends[0].name if self._backends else self._backend_name

    @property
    def device(self) -> str:
        """The devices in words, once started."""
        return ", ".join(backend.device for backend in self._backends)

    @property
    def workers(self) -> int:
        """Batches that can run at once, once started."""
        return 0 if self.runner is None else self.runner.workers

    @property
    def restarts(self) -> int:
        """Workers that died or hung and were replaced."""
        return 0 if self.runner is None else self.runner.restarts

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are alive; empty where compute runs in this process."""
        return self.runner.pids if isinstance(self.runner, ProcessPool) else []

    def _make_runner(self, backends: Sequence[Backend]) -> ProcessPool | ThreadRunner:
        if backends[0].name != "numpy" or self._workers == 0:  # a thread for each device
            return ThreadRunner(self._model, self.store.folder, backends, readout=self._readout)
        workers = cgroup.whole_cpus() if self._workers is None else self._workers
        return ProcessPool(self._model, self.store.folder, workers, command=self._command, readout=self._readout)

    def _make_helpers(self) -> tuple[Helper, Helper]:
        return Helper(nice=BUILDER_NICE, command=self._command), Helper(nice=WORKER_NICE, command=self._command)

    async def _build(self, esn_size: int, layer: int, folder: Path) -> float:
        return await building.build_in(self._builder, self._model, esn_size, layer, folder)

    def _forget(self, esn_size: int) -> None:
        if self.runner is not None:
            self.runner.forget(esn_size)
