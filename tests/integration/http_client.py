"""What the tests of a running server ask it, and how they wait for what it will say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.http_server import LONG, Server

PROCESS = "/dtesn/process_with_batching"


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with any number of connections."""
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def eventually(ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """Ask again until the answer is the wanted one; the pause bounds the traffic, and the only limit is the test's own."""
    while not wanted(found := await ask()):  # noqa: ASYNC110 - it is another process that is waited for
        await asyncio.sleep(0.02)
    return found


async def config(http: aiohttp.ClientSession) -> dict[str, Any]:
    """What `/config` says."""
    async with http.get("/config") as answer:
        return await answer.json()  # type: ignore[no-any-return]


async def metric(http: aiohttp.ClientSession, name: str, **labels: str) -> float:
    """The sum of the samples of that name with those labels."""
    async with http.get("/metrics") as answer:
        text = await answer.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def ready(http: aiohttp.ClientSession) -> int:
    """The status of `/readyz`."""
    async with http.get("/readyz") as answer:
        return answer.status


async def post_statuses(http: aiohttp.ClientSession, text: str, times: int) -> list[int]:
    """The statuses of so many requests at once."""

    async def one() -> int:
        async with http.post(PROCESS, json={"input_data": text, "timeout": LONG}) as answer:
            await answer.read()
            return answer.status

    return await asyncio.gather(*(one() for _ in range(times)))
