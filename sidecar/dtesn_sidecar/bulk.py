"""Many inputs in one call: cut into chunks, parsed without stalling the event loop, submitted, and told as they are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from dtesn_sidecar.batching.entrance import ITEM
from dtesn_sidecar.compute.job import Job
from dtesn_sidecar.errors import DTESNError, RequestTooLarge
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.trees import Tree

if TYPE_CHECKING:
    from dtesn_sidecar.batching.manager import DynamicBatchManager
    from dtesn_sidecar.batching.snapshot import Completed
    from dtesn_sidecar.requests import Wanted

MAX_FLOATS: Final = 1 << 24
"""Numbers in an answer that is held as a whole: 64 MiB, three times that as text."""

LEAST_TIMEOUT: Final = 1e-3
"""Seconds left to who has used up his time: expired at once, but by the manager, who counts it."""

E = TypeVar("E", bound=Exception)

_CHUNK_ITEMS: Final = 1024
_CHUNK_FLOATS: Final = 1 << 22
_PARSED_AT_ONCE: Final = 32


def floats(wanted: Wanted, outputs: int) -> int:
    """Numbers in one answer; `outputs` are the readout's."""
    if wanted.output == "readout":
        return outputs
    return 2 * wanted.depth * (2 if wanted.output == "summary" else wanted.esn_size)


def bounded(count: int, numbers: int) -> None:
    """Refuse an answer of so many items of so many numbers each that may not be held as a whole. Raises RequestTooLarge."""
    if count * numbers > MAX_FLOATS:
        raise RequestTooLarge(
            f"the answer to {count} inputs would hold {count * numbers} numbers, at most {MAX_FLOATS} are allowed; "
            "ask for the summary, for fewer inputs, or for the answers as a stream",
            field="inputs",
            value=f"{count} inputs",
            expected=f"at most {MAX_FLOATS // numbers} inputs, or the answers as a stream",
        )


def naming(error: E, field: str) -> E:
    """The error; where it names the manager's item, it names the caller's field instead."""
    if isinstance(error, RequestTooLarge) and error.field == ITEM:
        error.field = field
    return error


def chunks(count: int, numbers: int) -> Iterator[range]:
    """The indices cut so that a chunk's answers, of so many numbers each, are at most 1,024 and take at most 16 MiB."""
    size = max(1, min(_CHUNK_ITEMS, _CHUNK_FLOATS // numbers))
    return (range(start, min(start + size, count)) for start in range(0, count, size))


async def parsed(
    inputs: Sequence[object], indices: range, wanted: Wanted, input_format: str, max_nodes: int
) -> AsyncGenerator[tuple[int, Job | Exception], None]:
    """The job of each input, or what is wrong with it. Gives way to the event loop after every few."""
    for index in indices:
        data = inputs[index]
        if isinstance(data, Exception):
            yield index, data
            continue
        try:
            tree = data if isinstance(data, Tree) else parse_input(data, input_format, max_nodes=max_nodes, field=f"inputs[{index}]")
        except DTESNError as error:
            yield index, error
        else:
            yield index, Job(tree, wanted.depth, wanted.esn_size, wanted.output)
        if index % _PARSED_AT_ONCE == 0:
            await asyncio.sleep(0)


async def submitted(
    manager: DynamicBatchManager, jobs: Mapping[int, Job], priority: int, seconds: float | None, *, direct: bool, spread: bool
) -> AsyncGenerator[tuple[int, Completed | Exception], None]:
    """Submit the jobs, with `seconds` for all (None: the default for each), and yield each outcome as it comes.

    Closing the iterator withdraws what is left.
    """
    if not jobs:
        return
    indices = list(jobs)
    done: asyncio.Queue[tuple[int, Completed | Exception] | None] = asyncio.Queue()
    call = asyncio.ensure_future(
        manager.submit_each(
            list(jobs.values()),
            lambda index, outcome: done.put_nowait((indices[index], outcome)),
            priority,
            seconds,
            direct=direct,
            spread=spread,
        )
    )
    call.add_done_callback(lambda _call: done.put_nowait(None))
    try:
        while (told := await done.get()) is not None:
            yield told
        await call
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
