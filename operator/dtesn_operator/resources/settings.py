"""What the sidecar is told, and by which way: live settings by a file, all else by the pod template's environment.

Only what differs from the default is written. A sidecar keeps its image when the operator is upgraded, so a field that it
does not know yet must not reach it, and a new field at its default must not change the pod template. It follows that a
default never changes within a version of the API.
"""

from __future__ import annotations

import json
from functools import cache
from math import ceil
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dtesn_api import names
from dtesn_api.schema import Place, environment_name, fields, walk
from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec, ReadoutSource

GRACE_MARGIN: Final = 10  # seconds for what is left after the last request has timed out
_BY_FLAG: Final = "sidecar.port"  # a flag beats any environment; probes and the Service rely on it


def changed(section: Struct) -> dict[str, Any]:
    """The section in wire names, without the fields that are at their defaults."""
    return {
        field.wire: _wire(value)
        for field in fields(type(section))
        if (value := getattr(section, field.name)) is not None and (field.required or value != field.default)
    }


def _wire(value: Any) -> Any:
    if isinstance(value, Struct):
        return changed(value)
    return [_wire(item) for item in value] if isinstance(value, tuple) else value


def live_file(spec: DTESNBatcherSpec, grace: int) -> bytes:
    """The bytes of the configuration file: `batching` and `load`, as JSON, which is YAML too and has one reading only."""
    live = {"batching": changed(fitted(spec.batching, grace - spec.sidecar.drain_delay_seconds)), "load": changed(spec.load)}
    return msgspec.json.format(msgspec.json.encode(live), indent=2) + b"\n"


def default_grace(spec: DTESNBatcherSpec) -> int:
    """Seconds that a pod may take to end: the drain delay, the longest request, and a margin."""
    return spec.sidecar.drain_delay_seconds + ceil(spec.batching.max_timeout) + GRACE_MARGIN


def least_grace(spec: DTESNBatcherSpec) -> int:
    """The shortest grace in which a drain answers anything: one second for requests."""
    return spec.sidecar.drain_delay_seconds + 1 + GRACE_MARGIN


def fitted(batching: BatchConfiguration, seconds: int) -> BatchConfiguration:
    """The batching settings with time-outs that a drain of so many seconds, margin included, can wait for."""
    longest = float(seconds - GRACE_MARGIN)
    if batching.max_timeout <= longest:
        return batching
    default = batching.default_timeout
    return replace(
        batching,
        max_timeout=longest,
        min_timeout=min(batching.min_timeout, longest),
        default_timeout=None if default is None else min(default, longest),
    )


def environment(spec: DTESNBatcherSpec) -> dict[str, str]:
    """The variables that give the sidecar every setting that takes effect at its start."""
    found = {environment_name(place.path): _text(value) for place, value in _at_start(spec)}
    if spec.model.readout is not None:
        found[environment_name("model.readout.path")] = readout_path(spec.model.readout)
    return found


def _at_start(spec: DTESNBatcherSpec) -> list[tuple[Place, Any]]:
    """The settings that differ from their defaults, and their values. Those of the readout, which is a path for the sidecar, aside."""
    return [(place, value) for place in _start_places() if (value := _at(spec, place.path)) != place.field.default]


@cache
def _start_places() -> tuple[Place, ...]:
    places = [place for place in walk(DTESNBatcherSpec) if place.applies == "restart" and place.field.section is None]
    return tuple(place for place in places if place.path != _BY_FLAG and not place.path.startswith("model.readout."))


def _at(section: Struct, path: str) -> Any:
    head, _, rest = path.partition(".")
    value = getattr(section, next(field.name for field in fields(type(section)) if field.wire == head))
    return _at(value, rest) if rest else value


def _text(value: Any) -> str:
    """The value as the environment holds it: strings as they are, numbers and booleans as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def readout_path(readout: ReadoutSource) -> str:
    """Where the readout is in the container. What comes from a ConfigMap or a claim is mounted by the pod template."""
    if readout.config_map is not None:
        return str(PurePosixPath(names.READOUT_FOLDER, readout.config_map.key))
    if readout.persistent_volume_claim is not None:
        return str(PurePosixPath(names.READOUT_FOLDER, readout.persistent_volume_claim.path.lstrip("/")))
    return str(readout.path)
