"""SIGTERM under full load, many times over: nothing that was accepted is lost, and every answer is its own."""

from __future__ import annotations

import asyncio
import itertools
import json

import aiohttp
import pytest
from tests.integration.http_server import LONG, running

pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]

PROCESS = "/dtesn/process_with_batching"
CLIENTS = 48
WARM = 300  # answers before the signal
MODEL = {"DTESN_MODEL_ESN_SIZE": "128", "DTESN_MODEL_MEMBRANE_DEPTH": "3"}


@pytest.mark.parametrize("delay", ["0", "1"])
async def test_sigterm_under_full_load_loses_nothing_and_misroutes_nothing(delay: str) -> None:
    with running({**MODEL, "DTESN_SIDECAR_DRAIN_DELAY_SECONDS": delay}) as server:
        answers: dict[str, int] = {}
        unanswered: set[str] = set()
        farewells: set[str] = set()  # answered in advance, while the request was on its way
        numbers = itertools.count(1)
        warm = asyncio.Event()

        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:

            async def one(number: int) -> bool:
                """One request with a length of its own; whether to go on."""
                name = f"request-{number}"
                text = "x" * (1 + number % 997)
                try:
                    async with http.post(PROCESS, json={"input_data": text, "timeout": LONG}, headers={"X-Request-ID": name}) as answer:
                        body = await answer.json(content_type=None)
                        answers[name] = answer.status
                except aiohttp.ClientConnectionError:
                    unanswered.add(name)  # not lost if the server never accepted it
                    return False
                if answer.status == 200:
                    assert answer.headers["X-Request-ID"] == name
                    assert body["result"]["processed_output"]["nodes"] == len(text)
                    if len(answers) >= WARM:
                        warm.set()
                    return True
                assert answer.status in (429, 503)
                assert int(answer.headers["Retry-After"]) >= 1
                if answer.headers["X-Request-ID"] != name:
                    assert (answer.status, body["code"]) == (503, "draining")
                    farewells.add(name)
                return body["code"] != "draining"

            async def client() -> None:
                while await one(next(numbers)):
                    pass

            clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
            await warm.wait()
            server.terminate()
            await asyncio.gather(*clients)
        assert await asyncio.to_thread(server.end) == 0
        served = {str(record["request_id"]): record["status"] for record in server.records() if record["route"] == PROCESS}
        assert len(served) > WARM
        # Whatever the server saw was answered, and the client got it.
        assert served == {name: status for name, status in answers.items() if name not in farewells}
        assert not unanswered & set(served)


async def test_answers_under_load_equal_those_computed_alone() -> None:
    """Mixed lengths, depths and priorities, batched and direct at once: no answer is another's."""
    cases = [(f"{i} " * (1 + i * 7 % 60), 1 + i % 4, i % 3) for i in range(120)]
    with running(MODEL) as server:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:

            async def features(path: str, case: tuple[str, int, int]) -> list[float]:
                text, depth, priority = case
                body = {"input_data": text, "membrane_depth": depth, "priority": priority, "output": "features", "timeout": LONG}
                async with http.post(path, data=json.dumps(body), headers={"Content-Type": "application/json"}) as answer:
                    assert answer.status == 200
                    return (await answer.json())["result"]["processed_output"]["features"]

            alone = [await features("/dtesn/process", case) for case in cases]
            together = await asyncio.gather(*(features(PROCESS, case) for _ in range(3) for case in cases))
            for i, found in enumerate(together):
                assert found == pytest.approx(alone[i % len(cases)], rel=0, abs=2e-6)
