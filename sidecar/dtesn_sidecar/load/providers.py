"""Which load providers the spec knows, and how each is made: the name -> factory table.

A new provider is a module beside this one, a field of `spec.load` and a row here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dtesn_sidecar.load import engine
from dtesn_sidecar.load.engine import engine_load
from dtesn_sidecar.load.nvml import nvml_load
from dtesn_sidecar.load.prometheus import prometheus_load
from dtesn_sidecar.load.queue import queue_load
from dtesn_sidecar.load.readings import LoadSource
from dtesn_sidecar.load.system import system_load

if TYPE_CHECKING:
    from dtesn_api.spec import LoadConfiguration


@dataclass(frozen=True, slots=True)
class Inputs:
    """What providers read from this process: the devices' busy share (None: not measured yet), and the time.

    `clock` is the tracker's, in monotonic seconds; `wall` is in seconds since 1970, as other machines tell it.
    """

    busy_share: Callable[[], float | None]
    clock: Callable[[], float]
    wall: Callable[[], float] = time.time


Factory = Callable[["LoadConfiguration", Inputs], list[LoadSource]]


def _queue(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    return [LoadSource("queue", queue_load(inputs.busy_share), load.queue.weight, settings=load.queue)]


def _system(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    return [LoadSource("system", system_load(inputs.clock), load.system.weight, settings=load.system)]


def _prometheus(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    return [
        LoadSource(
            source.name,
            prometheus_load(source, inputs.clock, inputs.wall),
            source.weight,
            interval=source.interval_seconds,
            stale_after=source.stale_after_seconds,
            hold=source.hold_seconds,
            settings=source,
        )
        for source in load.prometheus
    ]


def _nvml(load: LoadConfiguration, _inputs: Inputs) -> list[LoadSource]:
    return [LoadSource("nvml", nvml_load(), load.nvml.weight, settings=load.nvml)]


def _engine(load: LoadConfiguration, _inputs: Inputs) -> list[LoadSource]:
    if load.engine is None:
        return []
    return [
        LoadSource(
            "engine",
            engine_load(load.engine),
            load.engine.weight,
            interval=engine.INTERVAL,
            stale_after=engine.STALE_AFTER,
            hold=engine.HOLD,
            settings=load.engine,
        )
    ]


FACTORIES: Mapping[str, Factory] = {"prometheus": _prometheus, "queue": _queue, "system": _system, "nvml": _nvml, "engine": _engine}


def sources(load: LoadConfiguration, inputs: Inputs) -> list[LoadSource]:
    """Every load source that the spec asks for; those of weight 0 are off."""
    return [source for factory in FACTORIES.values() for source in factory(load, inputs) if source.weight > 0]
