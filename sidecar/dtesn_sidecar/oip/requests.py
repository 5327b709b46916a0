"""What a request of the protocol asks for: tensors and parameters, of REST and of gRPC alike, checked and made trees.

How its bytes are read is `bodies` (REST) and `rpc/messages` (gRPC); which outputs there are is known only where it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct

from dtesn_api.inference import BYTES, FP32, INPUT_SERIES, INPUT_TEXT, MAX_ROWS, MODEL_VERSION
from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.errors import InvalidInput, NotFound, RequestTooLarge
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.oip import tensors
from dtesn_sidecar.oip.tensors import wrong

_PARAMETERS: Final = ("priority", "timeout", "membrane_depth", "esn_size", "binary_data_output")
_UNSUPPORTED: Final = ("shared_memory_region", "classification")  # of tensors: they would change the answer
_MICROSECONDS: Final = 1_000_000


class Reading(Struct, frozen=True, kw_only=True):
    """How the bytes of a request are to be read: the bound on nodes, and the most rows that are read `here` (None: any number)."""

    max_nodes: int
    here: int | None = None

    @property
    def may_grow(self) -> bool:
        """Whether what is read may be much larger than its bytes."""
        return False


class Asked(Struct, frozen=True):
    """A request without its rows. Priority and timeout (seconds) are ours; None is the default. `outputs`: names, and whether binary."""

    id: str
    outputs: tuple[tuple[str, bool], ...]
    binary: bool
    priority: int | None
    timeout: float | None
    membrane_depth: int | None
    esn_size: int | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input tensor as it came: `values` are JSON's, or the raw bytes."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: list[Any] | Bytes


def known(served: str, model: str, version: str) -> None:
    """Raises NotFound unless it is the model that is served, in its one version (or in none named)."""
    if model != served:
        raise NotFound(f"there is no model {model[:64]!r} here, only {served!r}", field="model", value=model[:64], expected=repr(served))
    if version not in ("", MODEL_VERSION):
        there = f"there is no version {version[:16]!r} of the model {served!r}, only {MODEL_VERSION}"
        raise NotFound(there, field="version", value=version[:16], expected=MODEL_VERSION)


def asked(id_: str, parameters: Mapping[str, object], outputs: Sequence[tuple[str, Mapping[str, object]]]) -> Asked:
    """What the parameters of request and outputs say. Raises InvalidInput."""
    for name in parameters:
        if name not in _PARAMETERS:
            raise wrong(f"parameters.{name[:64]}", "unknown", "one of " + ", ".join(_PARAMETERS))
    binary = _flag(parameters, "binary_data_output", "parameters", default=False)
    wanted: dict[str, bool] = {}
    for index, (name, own) in enumerate(outputs):
        place = f"outputs[{index}]"
        refuse_unsupported(own, place)
        if name in wanted:
            raise wrong(f"{place}.name", f"{name[:64]!r} again", "each output once")
        wanted[name] = _flag(own, "binary_data", f"{place}.parameters", default=binary)
    timeout = _count(parameters, "timeout")
    priority = _count(parameters, "priority")
    if priority is not None and priority > 3:
        raise wrong("parameters.priority", str(priority), "1 (highest) to 3, or 0 for the default")
    return Asked(
        id=id_,
        outputs=tuple(wanted.items()),
        binary=binary,
        priority=priority - 1 if priority else None,
        timeout=timeout / _MICROSECONDS if timeout else None,
        membrane_depth=_count(parameters, "membrane_depth"),
        esn_size=_count(parameters, "esn_size"),
    )


class ManyRows(Exception):
    """There are more rows than are read here: they are to be read where nobody waits."""


def rows(inputs: Sequence[Tensor], max_nodes: int, here: int | None = None) -> list[Tree]:
    """The tree of each row of the one input. Raises InvalidInput and RequestTooLarge, naming the row, and ManyRows beyond `here`."""
    if len(inputs) != 1:
        raise wrong("inputs", f"of {len(inputs)} tensors", f"exactly one, {INPUT_TEXT} or {INPUT_SERIES}")
    tensor = inputs[0]
    if here is not None and tensor.shape and here < tensor.shape[0] <= MAX_ROWS:
        raise ManyRows
    if tensor.name == INPUT_TEXT:
        return [parse_input(text, "text", max_nodes=max_nodes, field=f"TEXT[{row}]") for row, text in enumerate(_texts(tensor))]
    if tensor.name == INPUT_SERIES:
        array = _series(tensor, max_nodes)
        return [parse_input(row, "series", max_nodes=max_nodes, field=f"SERIES[{index}]") for index, row in enumerate(array)]
    raise wrong("inputs[0].name", repr(tensor.name[:64]), f"{INPUT_TEXT} or {INPUT_SERIES}")


def refuse_unsupported(parameters: Mapping[str, object], place: str) -> None:
    """Raises InvalidInput for parameters of a tensor that ask for what this server does not do."""
    for name in _UNSUPPORTED:
        if name in parameters:
            raise wrong(f"{place}.parameters.{name}", "given", "absent: this server does not support it")


def _texts(tensor: Tensor) -> list[bytes]:
    shape = tensor.shape
    _datatype(tensor, BYTES)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise wrong("TEXT.shape", str(list(shape)), "[n] or [n, 1]")
    _row_count(tensor)
    if isinstance(tensor.values, list):
        return tensors.strings_of_json(tensor.values, shape, "TEXT")
    return tensors.strings_of_bytes(tensor.values, tensors.elements(shape, "TEXT"), "TEXT")


def _series(tensor: Tensor, max_nodes: int) -> Any:
    shape = tensor.shape
    _datatype(tensor, FP32)
    if len(shape) != 3:
        raise wrong("SERIES.shape", str(list(shape)), "[n, steps, channels]")
    _row_count(tensor)
    if shape[1] > max_nodes:  # before the values are looked at, of which there may be many
        raise RequestTooLarge(
            f"SERIES.shape[1] is {shape[1]}, expected at most {max_nodes} steps (model.maxNodes)",
            field="SERIES.shape[1]",
            value=shape[1],
            expected=f"at most {max_nodes}",
        )
    for axis, what in ((1, "step"), (2, "channel")):
        if not shape[axis]:
            raise wrong(f"SERIES.shape[{axis}]", "0", f"at least one {what}")
    if isinstance(tensor.values, list):
        return tensors.floats_of_json(tensor.values, shape, "SERIES")
    return tensors.floats_of_bytes(tensor.values, shape, "SERIES")


def _datatype(tensor: Tensor, wanted: str) -> None:
    if tensor.datatype != wanted:
        raise wrong(f"{tensor.name}.datatype", repr(tensor.datatype[:16]), wanted)


def _row_count(tensor: Tensor) -> None:
    tensors.elements(tensor.shape, tensor.name)
    count = tensor.shape[0]
    if count == 0:
        raise wrong(f"{tensor.name}.shape[0]", "0", "at least one row")
    if count > MAX_ROWS:
        raise RequestTooLarge(
            f"{tensor.name}.shape[0] is {count}, expected at most {MAX_ROWS} rows",
            field=f"{tensor.name}.shape[0]",
            value=count,
            expected=f"at most {MAX_ROWS}",
        )


def _count(parameters: Mapping[str, object], name: str) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _mistyped(f"parameters.{name}", value, "an integer of 0 or more")
    return value


def _flag(parameters: Mapping[str, object], name: str, place: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _mistyped(f"{place}.{name}", value, "true or false")
    return value


def _mistyped(field: str, value: object, expected: str) -> InvalidInput:
    shown = repr(value)
    return wrong(field, shown if len(shown) <= 80 else shown[:77] + "...", expected)
