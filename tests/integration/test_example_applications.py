"""The example applications behind real servers: batched answers, errors, clients that leave, and a shutdown that loses nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

from dtesn_sidecar import DTESNProcessor, ModelConfiguration

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = {
    "fastapi": ("uvicorn", "fastapi_app:app", "--app-dir", str(EXAMPLES), "--port", "0"),
    "aiohttp": (str(EXAMPLES / "aiohttp_app.py"), "0"),
}
MODEL = ModelConfiguration(membrane_depth=2, esn_size=128)  # as both examples have it

pytestmark = pytest.mark.timeout(300)


class Example:
    """One running application: its process, where it listens, and what it wrote."""

    def __init__(self, kind: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.kind, self.process, self._log = kind, process, log
        self.url = ""

    async def wait(self) -> None:
        """It listens only once its processor is ready."""
        watched = psutil.Process(self.process.pid)
        while not (listening := [c for c in watched.net_connections("tcp4") if c.status == psutil.CONN_LISTEN]):
            assert self.process.poll() is None, self.log()
            await asyncio.sleep(0.05)
        self.url = f"http://127.0.0.1:{listening[0].laddr.port}"

    def body(self, text: str, **options: object) -> dict[str, object]:
        """A request as this application takes it."""
        return {"json": {"text": text, **options}} if self.kind == "fastapi" else {"data": text.encode()}

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def started(kind: str, folder: Path) -> Iterator[Example]:
    log = folder / "log"
    with log.open("wb") as out:
        arguments = COMMANDS[kind]
        command = [sys.executable, "-W", "error", *(("-m",) if kind == "fastapi" else ()), *arguments]
        with subprocess.Popen(command, stdout=out, stderr=out) as process:
            try:
                yield Example(kind, process, log)
            finally:
                process.kill()


@pytest.fixture(params=list(COMMANDS))
async def example(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Example]:
    with started(request.param, tmp_path) as running:
        await running.wait()
        yield running


@asynccontextmanager
async def session(example: Example) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(example.url, connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


async def ask(http: aiohttp.ClientSession, example: Example, text: str) -> dict[str, object]:
    async with http.post("/process", **example.body(text)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def figures(http: aiohttp.ClientSession) -> dict[str, object]:
    async with http.get("/batch_metrics") as answer:
        assert answer.status == 200
        return await answer.json()


async def test_concurrent_requests_are_batched_and_each_answer_is_its_own(example: Example) -> None:
    texts = ["x" * (1 + 7 * n % 50) + str(n) for n in range(60)]
    async with session(example) as http, DTESNProcessor(MODEL) as alone:
        answers = await asyncio.gather(*(ask(http, example, text) for text in texts))
        for text, answer in zip(texts, answers, strict=True):
            expected = (await alone.process_with_dynamic_batching(text)).processed_output
            found = answer["processed_output"]
            assert found["nodes"] == len(text)
            for layer, wanted in zip(found["summary"], expected.summary, strict=True):
                for state in ("root", "mean"):
                    assert layer[state]["norm"] == pytest.approx(getattr(wanted, state).norm, abs=5e-5)
                    assert layer[state]["mean"] == pytest.approx(getattr(wanted, state).mean, abs=2e-6)
        assert sum(answer["engine_integration"]["batch_processed"] for answer in answers) > 0
        metrics = await figures(http)
        assert metrics["metrics"]["requests_processed"] == len(texts)
        assert metrics["metrics"]["avg_batch_size"] > 1


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; the test's timeout is the only limit."""
    while True:
        if await holds():
            return
        await asyncio.sleep(0.01)


@asynccontextmanager
async def closed_loop(http: aiohttp.ClientSession, example: Example, clients: int, text: str) -> AsyncIterator[None]:
    """So many clients that ask again and again, and leave all at once in the end."""

    async def client() -> None:
        while True:
            await ask(http, example, text)

    asking = [asyncio.create_task(client()) for _ in range(clients)]
    try:
        yield
    finally:
        for task in asking:
            task.cancel()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}


async def test_the_application_s_own_running_requests_are_the_load(example: Example) -> None:
    async with session(example) as http:

        async def load() -> float | None:
            return (await figures(http))["server_load"]["application"]["value"]

        async def busy() -> bool:
            return (await load() or 0) >= 16 / 64

        async def calm() -> bool:
            return (await load() or 0) <= 1 / 64  # the request that asks may itself be counted

        await until(calm)
        async with closed_loop(http, example, 32, "x" * 2000):
            await until(busy)
        await until(calm)


async def test_errors_have_the_status_of_their_type(example: Example) -> None:
    async with session(example) as http:
        cases: list[tuple[str, dict[str, object], int, str]] = [("x" * 5000, {}, 413, "request_too_large")]
        if example.kind == "fastapi":
            cases += [("x", {"priority": 7}, 422, "invalid_input"), ("x", {"timeout": -1}, 422, "invalid_input")]
        for text, options, status, code in cases:
            async with http.post("/process", **example.body(text, **options)) as answer:
                assert (answer.status, answer.content_type) == (status, "application/problem+json")
                document = json.loads(await answer.read())
                assert (document["status"], document["code"]) == (status, code)
                assert document["detail"]


async def test_requests_whose_clients_leave_are_withdrawn(example: Example) -> None:
    async with session(example) as http:

        async def processed() -> int:
            return (await figures(http))["metrics"]["requests_processed"]

        async def some_were_never_computed() -> bool:
            before = await processed()
            leaving = [asyncio.create_task(ask(http, example, "x" * 4000)) for _ in range(60)]

            async def queued() -> bool:
                return (await figures(http))["pending_requests"] >= 20 or all(task.done() for task in leaving)

            async def idle() -> bool:
                return (await figures(http))["server_load"]["active_requests"] == 0

            await until(queued)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            await until(idle)
            return await processed() < before + len(leaving)

        await until(some_were_never_computed)
        assert (await ask(http, example, "still there"))["processed_output"]["nodes"] == 11


async def test_a_shutdown_answers_everything_that_was_accepted(example: Example) -> None:
    async with session(example) as http:
        asking: list[asyncio.Task[dict[str, object]]] = []

        async def all_are_inside() -> bool:
            if all(task.done() for task in asking):
                asking[:] = [asyncio.create_task(ask(http, example, "x" * (4000 + n))) for n in range(40)]
            return (await figures(http))["server_load"]["active_requests"] == len(asking)

        await until(all_are_inside)
        example.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asking)
        assert [answer["processed_output"]["nodes"] for answer in answers] == [4000 + n for n in range(40)]
    status = await asyncio.to_thread(example.process.wait)
    assert status in (0, -signal.SIGTERM), example.log()  # uvicorn ends with the signal that it was given, once it has shut down
    assert "Traceback" not in example.log()
