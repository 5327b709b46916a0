"""A real server that is asked for far more than it can do: everyone is answered, in order, and everything is counted once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import chain

from tests.integration.http_client import PROCESS, client, metric
from tests.integration.http_server import running

CONNECTIONS, EACH = 60, 20
BODY = json.dumps({"input_data": "overload " * 200, "timeout": 200}).encode()


async def turns(port: int, name: int) -> list[int]:
    """The statuses of so many requests, one after the other on one connection; each answer must be its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    statuses = []
    for number in range(EACH):
        identity = f"{name}-{number}"
        head = f"POST {PROCESS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-Request-ID: {identity}\r\n"
        writer.write(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {field.lower(): value for field, _, value in (line.partition(": ") for line in lines[1:])}
        answer = json.loads(await reader.readexactly(int(headers["content-length"])))
        statuses.append(int(lines[0].split(" ")[1]))
        assert headers["x-request-id"] == identity
        if statuses[-1] == 429:
            assert (answer["code"], answer["instance"], str(answer["retry_after"])) == ("queue_full", identity, headers["retry-after"])
        else:
            assert answer["status"] == "success"
    writer.close()
    return statuses


async def test_everyone_is_answered_in_turn_and_what_is_refused_is_counted_and_logged_once() -> None:
    with running({"DTESN_BATCHING_MAX_QUEUE_SIZE": "4", "DTESN_BATCHING_MAX_BATCH_SIZE": "8"}) as server:
        found = Counter(chain.from_iterable(await asyncio.gather(*(turns(server.port, name) for name in range(CONNECTIONS)))))
        assert set(found) == {200, 429}
        async with client(server) as http:
            assert await metric(http, "dtesn_refusals_total", reason="queue_full") == found[429]
            assert await metric(http, "dtesn_requests_total", outcome="refused", priority="1") == found[429]
            for status, count in found.items():
                assert await metric(http, "dtesn_http_responses_total", route=PROCESS, status=str(status)) == count
        server.terminate()
        server.end()
        records = [record for record in server.records() if record["route"] == PROCESS]
        assert Counter(record["status"] for record in records) == found
        assert len({record["request_id"] for record in records}) == CONNECTIONS * EACH
