"""What parent and child processes say to each other, and errors as values that cross a process boundary.

Headers are MessagePack arrays (msgspec), validated on arrival; arrays travel beside them as raw buffers (`frames`).
No pickle: a child can answer with data only, never with code.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from dtesn_api.bodies import BodyMalformed
from dtesn_api.problems import Problem, SpecInvalid
from dtesn_api.wire import Output
from dtesn_sidecar import errors
from dtesn_sidecar.batching.protocols import RunReport
from dtesn_sidecar.errors import ComputeFailed, DTESNError, InvalidInput, MalformedBody, OutOfMemory

_MAX_TEXT: Final = 500  # characters of an unexpected exception that are passed on


class Fault(msgspec.Struct, array_like=True, frozen=True):
    """An exception as data: the code of a `DTESNError` with its attributes.

    `problems` are those of a `SpecInvalid`.
    """

    code: str
    detail: str
    retry_after: float | None = None
    field: str | None = None
    value: Any = None
    expected: str | None = None
    problems: tuple[Problem, ...] = ()


class Setup(msgspec.Struct, array_like=True, frozen=True, tag="setup"):
    """Parent to worker, once: the model (a `ModelConfiguration` in MessagePack) whose weights it will open.

    With a readout: its depth, size and number of outputs; its weights and intercept are the buffers of the body, so that every worker
    has what was checked at the start, whatever becomes of the file.
    """

    model: msgspec.Raw
    readout: tuple[int, int, int] | None = None


class Item(msgspec.Struct, array_like=True, frozen=True):
    """One member of a run. `tree` and the next `len(sizes)` buffers of the body are what `Tree.pack` gave.

    Its result is of use for `seconds` from now (None: always).
    """

    id: int
    depth: int
    output: Output
    tree: Any
    sizes: tuple[int, ...]
    seconds: float | None = None


class Run(msgspec.Struct, array_like=True, frozen=True, tag="run"):
    """Parent to worker: compute this batch with the first `layers` layers in `folder`."""

    run: int
    esn_size: int
    folder: str
    layers: int
    items: tuple[Item, ...]


class Drop(msgspec.Struct, array_like=True, frozen=True, tag="drop"):
    """Parent to worker: nobody waits for these any more."""

    ids: tuple[int, ...]


class Forget(msgspec.Struct, array_like=True, frozen=True, tag="forget"):
    """Parent to worker: the weights of this size were evicted; let go of them."""

    esn_size: int


class Call(msgspec.Struct, array_like=True, frozen=True, tag="call"):
    """Parent to helper: call `module:function` with `arguments` and the buffers of the body."""

    call: int
    function: str
    arguments: msgspec.Raw
    sizes: tuple[int, ...]


class Ready(msgspec.Struct, array_like=True, frozen=True, tag="ready"):
    """Child to parent, once: imports are done, messages are read."""


class Done(msgspec.Struct, array_like=True, frozen=True):
    """One finished item: the shape of its array in the body, or its fault."""

    id: int
    shape: tuple[int, ...] | None
    fault: Fault | None = None


class Report(msgspec.Struct, array_like=True, frozen=True):
    """Worker to parent with the last results of a run: what it took (see `RunReport`)."""

    seconds: float
    nodes: int
    levels: int
    slices: int
    complete: bool
    nodes_dropped: int
    peak_bytes: int
    cpu_seconds: float | None = None


class Results(msgspec.Struct, array_like=True, frozen=True, tag="results"):
    """Worker to parent: items that a slice finished, in the order of their buffers (float32); with the last, how the run ended."""

    run: int
    done: tuple[Done, ...]
    sizes: tuple[int, ...]
    report: Report | None = None
    failure: Fault | None = None


class Answer(msgspec.Struct, array_like=True, frozen=True, tag="answer"):
    """Helper to parent: what a call returned, or its fault."""

    call: int
    value: msgspec.Raw
    sizes: tuple[int, ...]
    fault: Fault | None = None


ToChild: TypeAlias = Setup | Run | Drop | Forget | Call
ToParent: TypeAlias = Ready | Results | Answer

encode = msgspec.msgpack.Encoder().encode
decode_in_child = msgspec.msgpack.Decoder(ToChild).decode
decode_in_parent = msgspec.msgpack.Decoder(ToParent).decode


def run_report(report: Report, worker: int) -> RunReport:
    """The report as the manager knows it."""
    return RunReport(
        seconds=report.seconds,
        nodes=report.nodes,
        levels=report.levels,
        complete=report.complete,
        worker=worker,
        slices=report.slices,
        peak_bytes=report.peak_bytes,
        nodes_dropped=report.nodes_dropped,
        cpu_seconds=report.cpu_seconds,
    )


def fault_of(error: Exception) -> Fault:
    """The exception as data. What is not ours becomes `compute_failed` with its type and the start of its text."""
    if isinstance(error, DTESNError):
        return Fault(error.code, error.detail, error.retry_after, error.field, _plain(error.value), error.expected)
    if isinstance(error, SpecInvalid):
        return Fault(InvalidInput.code, str(error), problems=tuple(error.problems))
    if isinstance(error, BodyMalformed):
        return Fault(MalformedBody.code, str(error))
    if isinstance(error, MemoryError):
        return Fault(OutOfMemory.code, "the batch did not fit into memory")
    return Fault(ComputeFailed.code, f"{type(error).__name__}: {error}"[:_MAX_TEXT])


def error_of(fault: Fault) -> Exception:
    """The exception that a fault stands for."""
    if fault.problems:
        return SpecInvalid(list(fault.problems))
    kind = _CLASSES.get(fault.code, ComputeFailed)
    return kind(fault.detail, retry_after=fault.retry_after, field=fault.field, value=fault.value, expected=fault.expected)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() < 64):
        return value
    return str(value)[:_MAX_TEXT]


def _classes() -> dict[str, type[DTESNError]]:
    found = (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DTESNError))
    return {value.code: value for value in found}


_CLASSES: Final = _classes()
