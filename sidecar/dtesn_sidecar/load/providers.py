"""Which load providers the spec knows, and how each is made: the name -> factory table.

A new provider is a module beside this one, a field of `spec.load` and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dtesn_sidecar.load.queue import queue_load
from dtesn_sidecar.load.readings import LoadProvider, LoadSource, NoData
from dtesn_sidecar.load.system import system_load

if TYPE_CHECKING:
    from dtesn_api.spec import LoadConfiguration

NOT_AVAILABLE = "not available in this version"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What providers read from this process: the devices' busy share (None: not measured yet), and the clock."""

    busy_share: Callable[[], float | None]
    clock: Callable[[], float]


Factory = Callable[["LoadConfiguration", Inputs], list[LoadSource]]


def _queue(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    return [LoadSource("queue", queue_load(inputs.busy_share), load.queue.weight, settings=load.queue)]


def _system(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    return [LoadSource("system", system_load(inputs.clock), load.system.weight, settings=load.system)]


def _prometheus(load: LoadConfiguration, _inputs: Inputs) -> list[LoadSource]:
    return [
        LoadSource(
            source.name,
            _missing(),
            source.weight,
            interval=source.interval_seconds,
            stale_after=source.stale_after_seconds,
            hold=source.hold_seconds,
            settings=source,
        )
        for source in load.prometheus
    ]


def _nvml(load: LoadConfiguration, _inputs: Inputs) -> list[LoadSource]:
    return [LoadSource("nvml", _missing(), load.nvml.weight, settings=load.nvml)]


def _engine(load: LoadConfiguration, _inputs: Inputs) -> list[LoadSource]:
    return [] if load.engine is None else [LoadSource("engine", _missing(), load.engine.weight, settings=load.engine)]


def _missing() -> LoadProvider:
    async def missing() -> NoData:
        return NoData(NOT_AVAILABLE)

    return missing


FACTORIES: Mapping[str, Factory] = {"prometheus": _prometheus, "queue": _queue, "system": _system, "nvml": _nvml, "engine": _engine}


def sources(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    """Every load source that the spec asks for; those of weight 0 are off."""
    return [source for factory in FACTORIES.values() for source in factory(load, inputs) if source.weight > 0]
