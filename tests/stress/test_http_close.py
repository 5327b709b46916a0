"""Connections that arrive while the server closes: each is answered, or refused as it connects, and none is reset or left without."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from tests.integration.http_server import Server, running

pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]

PROCESS = "/dtesn/process_with_batching"
BODY = b'{"input_data": "some words", "timeout": 250}'
REQUEST = f"POST {PROCESS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
NEWCOMERS = 64
IDLE = 32
WARM = 200


async def answer_to_one(server: Server, *, pause: int = 0, before: asyncio.Event | None = None) -> int | str:
    """The status of one request on a connection of its own, "refused" as it connected, or "lost".

    `pause`: turns of the loop between connecting and sending; `before`: what to wait for in between.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    except ConnectionRefusedError:
        return "refused"
    try:
        for _ in range(pause):
            await asyncio.sleep(0)
        if before is not None:
            await before.wait()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        body = json.loads(await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0])))
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return f"lost: {error!r}"
    finally:
        writer.transport.abort()
    status = int(head.split()[1])
    assert status in (200, 503), (head, body)
    assert status == 200 or body["code"] == "draining", body
    return status


@pytest.mark.parametrize("attempt", range(4))
@pytest.mark.parametrize("delay", ["0", "1"])
async def test_whoever_connects_while_the_server_closes_is_answered_or_refused(delay: str, attempt: int) -> None:
    outcomes: Counter[int | str] = Counter()
    warm, closed = asyncio.Event(), asyncio.Event()
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": delay}) as server:

        async def newcomer(number: int) -> None:
            """One connection after another until it is refused; some send at once, some a little later."""
            while (outcome := await answer_to_one(server, pause=number % 4)) != "refused":
                outcomes[outcome] += 1
                if outcomes[200] >= WARM:
                    warm.set()
            outcomes["refused"] += 1
            closed.set()

        idle = [asyncio.create_task(answer_to_one(server, before=closed)) for _ in range(IDLE)]
        newcomers = [asyncio.create_task(newcomer(number)) for number in range(NEWCOMERS)]
        await warm.wait()
        server.terminate()
        await asyncio.gather(*newcomers)
        outcomes.update(await asyncio.gather(*idle))
        assert await asyncio.to_thread(server.end) == 0
    assert not [outcome for outcome in outcomes if str(outcome).startswith("lost")], outcomes
    assert outcomes["refused"] == NEWCOMERS
    assert outcomes[200] >= WARM
    assert sum(outcomes.values()) >= WARM + NEWCOMERS + IDLE
