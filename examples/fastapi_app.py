"""Dynamic batching inside a FastAPI application: lifespan, the application's own load, disconnects, errors, figures.

Run it with `uvicorn fastapi_app:app --app-dir examples`, then:
curl -s localhost:8000/process -H 'Content-Type: application/json' -d '{"text": "hello"}'
"""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel

from dtesn_sidecar import BatchConfiguration, DTESNProcessor, ModelConfiguration, create_load_tracker_for_app
from dtesn_sidecar.errors import DTESNError

T = TypeVar("T")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The processor lives as long as the application; its end answers everything accepted."""
    app.state.server_load_metrics = 0  # requests that run now, where Aphrodite and vLLM keep theirs
    model, batching = ModelConfiguration(membrane_depth=2, esn_size=128), BatchConfiguration(max_batch_size=16)
    async with (
        create_load_tracker_for_app(app.state, max_requests=64) as tracker,
        DTESNProcessor(model, batch_config=batching, server_load_tracker=tracker) as processor,
    ):
        app.state.processor = processor
        yield


async def counted(request: Request) -> AsyncIterator[None]:
    """Keep the count that the tracker reads."""
    request.app.state.server_load_metrics += 1
    try:
        yield
    finally:
        request.app.state.server_load_metrics -= 1


def of_application(request: Request) -> DTESNProcessor:
    """The application's processor."""
    processor: DTESNProcessor = request.app.state.processor
    return processor


Processor = Annotated[DTESNProcessor, Depends(of_application)]
app = FastAPI(lifespan=lifespan, dependencies=[Depends(counted)])


class Question(BaseModel):
    """What is asked; the processor itself checks the bounds."""

    text: str
    priority: int = 1
    timeout: float | None = None


@app.post("/process")
async def process(question: Question, request: Request, processor: Processor) -> Response:
    """One text, computed together with those of other requests."""
    work = processor.process_with_dynamic_batching(question.text, priority=question.priority, timeout=question.timeout)
    answer = await while_connected(request, work)
    if answer is None:
        return Response(status_code=499)  # nobody reads it
    return Response(msgspec.json.encode(answer.body()), media_type="application/json")


@app.get("/batch_metrics")
async def batch_metrics(processor: Processor) -> Response:
    """How batching does, and the load that it sees."""
    return Response(msgspec.json.encode(processor.batch_metrics()), media_type="application/json")


@app.exception_handler(DTESNError)
async def refused(_request: Request, error: Exception) -> Response:
    """Every error of the library says which status it is, and whether and when to try again."""
    assert isinstance(error, DTESNError)
    headers = {"Retry-After": str(math.ceil(error.retry_after or 1.0))} if error.retryable else None
    document = {"title": type(error).__name__, "status": error.status, "code": error.code, "detail": error.detail}
    return Response(msgspec.json.encode(document), error.status, headers, "application/problem+json")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None where the client went away first, and its place in the batch is another's."""
    task, gone = asyncio.create_task(work), asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Return once the client has gone. The body was read before, so that nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
