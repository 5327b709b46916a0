"""The answer to a bulk call: outcomes as the wire has them, in order, as one document or as a stream of lines.

Which inputs are computed when is the processor's; the endpoint itself is in `routes.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal

from aiohttp import web

from dtesn_api.names import MEDIA_JSON, MEDIA_NDJSON
from dtesn_api.wire import BatchItem, BatchProcessResponse
from dtesn_sidecar.errors import DTESNError
from dtesn_sidecar.outputs import BatchOutcome, Timing
from dtesn_sidecar.problems import answer_for
from dtesn_sidecar.routes_edge import VISIT, Edge, Visit

if TYPE_CHECKING:
    from dtesn_sidecar.processor import DTESNProcessor

STALLED_SECONDS: Final = 60.0  # a client that reads nothing of a stream for so long is gone


async def document(outcomes: AsyncGenerator[BatchOutcome, None], processor: DTESNProcessor, visit: Visit) -> web.Response:
    """All outcomes as one JSON document."""
    items = []
    async with aclosing(in_order(outcomes)) as ordered:
        async for outcome in ordered:
            _time(visit, outcome)
            items.append(batch_item(outcome))
    answer = BatchProcessResponse(status=overall(items), results=items, performance_metrics=processor.performance_metrics())
    return web.Response(body=await processor.encode(answer), headers={"Content-Type": MEDIA_JSON})


async def stream(
    request: web.Request, outcomes: AsyncGenerator[BatchOutcome, None], processor: DTESNProcessor, edge: Edge
) -> web.StreamResponse:
    """Each outcome as a line of NDJSON as soon as it and those before it are there."""
    visit = request[VISIT]
    async with aclosing(in_order(outcomes)) as ordered:
        first = await anext(ordered)  # what is wrong with the call as a whole is raised here, while the status is open
        _time(visit, first)  # of the others' times the head cannot know
        response = web.StreamResponse(headers={"Content-Type": MEDIA_NDJSON})
        edge.stamp(response, visit)
        await response.prepare(request)
        await _send(request, response, await _line(processor, first))
        async for outcome in ordered:
            await _send(request, response, await _line(processor, outcome))
            _time(visit, outcome)
    await response.write_eof()
    return response


async def _line(processor: DTESNProcessor, outcome: BatchOutcome) -> bytes:
    try:
        text = await processor.encode(batch_item(outcome))
    except DTESNError as error:  # the process that writes large answers died: this answer is lost, and the stream goes on
        text = await processor.encode(batch_item(BatchOutcome(outcome.index, "error", error=error)))
    return text + b"\n"


async def _send(request: web.Request, response: web.StreamResponse, line: bytes) -> None:
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            await response.write(line)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # what it has not read it never will
        raise ConnectionResetError("the client stopped reading") from None


async def in_order(outcomes: AsyncIterator[BatchOutcome]) -> AsyncGenerator[BatchOutcome, None]:
    """The outcomes in the order of their indices, each as soon as those before it are there."""
    early: dict[int, BatchOutcome] = {}
    due = 0
    async for outcome in outcomes:
        early[outcome.index] = outcome
        while (ready := early.pop(due, None)) is not None:
            yield ready
            due += 1


def batch_item(outcome: BatchOutcome) -> BatchItem:
    """The wire's form of an outcome."""
    if outcome.result is not None:
        return BatchItem(index=outcome.index, status="success", result=outcome.result.body())
    error = outcome.error if outcome.error is not None else RuntimeError("an outcome without result and error")
    return BatchItem(index=outcome.index, status="error", error=answer_for(error).document)


def overall(items: list[BatchItem]) -> Literal["success", "partial", "error"]:
    """`success` where all of them are, `error` where none is, else `partial`."""
    succeeded = sum(item.status == "success" for item in items)
    return "success" if succeeded == len(items) else "partial" if succeeded else "error"


def longest(one: Timing | None, other: Timing) -> Timing:
    """The times of several inputs as those of their call: the longest of each, the largest batch, and why the last was closed."""
    if one is None:
        return other
    return Timing(
        total=max(one.total, other.total),
        build=max(one.build, other.build),
        queue=max(one.queue, other.queue),
        compute=max(one.compute, other.compute),
        batch_items=max(one.batch_items, other.batch_items),
        closed_by=other.closed_by,
    )


def accepts_ndjson(accept: str) -> bool:
    """Whether the Accept header names NDJSON, other than to refuse it (q=0)."""
    for part in accept.split(","):
        media, *parameters = (word.strip().lower() for word in part.split(";"))
        if media == MEDIA_NDJSON and not any(_is_refusal(parameter) for parameter in parameters):
            return True
    return False


def _is_refusal(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and re.fullmatch(r"0(\.0{0,3})?", value.strip()) is not None


def _time(visit: Visit, outcome: BatchOutcome) -> None:
    if outcome.result is not None:
        visit.timing = longest(visit.timing, outcome.result.timing)
