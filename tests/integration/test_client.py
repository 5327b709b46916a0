"""The Python client against real sidecar processes: results, errors, overload, drain, a rolling restart, a server that hangs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager

import aiohttp
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.http_server import Server, running

from dtesn_sidecar import DTESNProcessor, ModelConfiguration
from dtesn_sidecar.client import (
    ConnectionFailed,
    DeadlineExceeded,
    DTESNClient,
    InvalidInput,
    NotFound,
    Overloaded,
    RequestTooLarge,
    RetryPolicy,
    TimedOut,
    Unavailable,
    features_array,
    features_of,
    result_of,
)

pytestmark = pytest.mark.timeout(300)

MODEL = ModelConfiguration(esn_size=64, membrane_depth=2)  # as `running` configures it
PATIENT = RetryPolicy(attempts=10_000, total_seconds=250.0, base_seconds=0.02, longest_seconds=0.2, budget_burst=100_000.0)
NEVER = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
async def client(server: Server) -> AsyncIterator[DTESNClient]:
    async with DTESNClient(server.url, timeout=100.0) as made:
        yield made


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; the test's timeout is the only limit."""
    while True:
        if await holds():
            return
        await asyncio.sleep(0.02)


async def counted(server: Server, name: str, **labels: str) -> float:
    async with aiohttp.ClientSession(server.url) as http, http.get("/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    return sum(
        sample.value for family in families for sample in family.samples if sample.name == name and labels.items() <= sample.labels.items()
    )


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_an_answer_is_the_library_s_own(client: DTESNClient) -> None:
    async with DTESNProcessor(MODEL) as alone:
        for given in ("some text", [0.5, 0.25, -1.0], np.array([[0.1, 0.2], [0.3, 0.4]]), {"label": 1.5, "children": [{"label": 2}]}):
            answer = await client.process(given, membrane_depth=2, priority=0, output="features")
            plain = given.tolist() if isinstance(given, np.ndarray) else given
            expected = (await alone.process_with_dynamic_batching(plain, output="features")).processed_output
            assert answer.result.processed_output.nodes == expected.nodes
            array = features_array(answer)
            assert array.shape == (2, 2, 64)
            np.testing.assert_allclose(array.reshape(-1), np.asarray(expected.features), rtol=0, atol=2e-6)
            np.testing.assert_allclose(features_of(answer), array)


async def test_without_options_the_answer_is_the_server_s_default(client: DTESNClient) -> None:
    answer = await client.process("text")
    output = answer.result.processed_output
    assert (answer.status, output.output, output.model.membrane_depth) == ("success", "summary", 2)
    assert len(output.summary) == 2
    assert answer.performance_metrics.batching_enabled
    alone = await client.process("text", enable_batching=False)
    assert not alone.result.engine_integration.dynamic_batching


async def test_a_bulk_call_gives_each_input_its_own_outcome_in_order(client: DTESNClient) -> None:
    items = await client.process_batch(["a", "", [1.0, 2.0], "x" * 5000], output="features")
    assert [item.index for item in items] == [0, 1, 2, 3]
    assert [item.status for item in items] == ["success", "error", "success", "error"]
    assert features_array(result_of(items[0])).shape == (2, 2, 64)
    with pytest.raises(InvalidInput):
        result_of(items[1])
    with pytest.raises(RequestTooLarge):
        result_of(items[3])


async def test_a_stream_gives_outcomes_one_by_one_and_may_be_left_early(server: Server, client: DTESNClient) -> None:
    texts = [f"text {n}" for n in range(300)]
    seen = [result_of(item).processed_output.nodes async for item in client.stream_batch(texts)]
    assert seen == [len(text) for text in texts]
    stream = client.stream_batch(["x" * 4000] * 2000, output="features")
    async with aclosing(stream):
        async for item in stream:
            assert item.index == 0
            break

    async def withdrawn() -> bool:
        return (await client.batch_metrics()).server_load["active_requests"] == 0

    await until(withdrawn)
    assert await counted(server, "dtesn_http_disconnects_total") >= 1


async def test_an_error_of_a_whole_bulk_call_is_raised(client: DTESNClient) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.process_batch([])
    assert caught.value.field == "inputs"


async def test_figures_and_health_are_typed(client: DTESNClient) -> None:
    await client.process("text")
    metrics = await client.batch_metrics()
    assert metrics.metrics.requests_processed >= 1
    assert set(metrics.server_load) == {"active_requests", "queue", "system"}
    assert (await client.ready()).status == "ok"
    assert (await client.health()).reasons == []


async def test_connections_are_kept_and_bounded(server: Server) -> None:
    used: set[int] = set()

    def established() -> set[int]:
        ours = psutil.Process().net_connections("tcp4")
        return {one.laddr.port for one in ours if one.status == psutil.CONN_ESTABLISHED and one.raddr.port == server.port}

    async with DTESNClient(server.url, timeout=100.0, max_concurrency=3) as client:

        async def one(number: int) -> None:
            await client.process(f"text {number}")
            now = established()
            assert 1 <= len(now) <= 3
            used.update(now)

        await asyncio.gather(*(one(number) for number in range(60)))
        assert 1 <= len(used) <= 3  # by local port: all 60 went over the same ones
    assert not established()


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_bad_requests_name_the_field_and_are_made_once(client: DTESNClient) -> None:
    for options, kind, field in (
        ({"esn_size": 7}, InvalidInput, "esn_size"),
        ({"membrane_depth": 99}, InvalidInput, "membrane_depth"),
        ({"model": "other"}, NotFound, "model"),
        ({"output": "readout"}, InvalidInput, "output"),
    ):
        with pytest.raises(kind) as caught:
            await client.process("text", **options)
        assert caught.value.field == field
        assert caught.value.attempts == 1
        assert caught.value.request_id
    with pytest.raises(InvalidInput, match="timeout"):
        await client.process("text", timeout=3000.0)
    with pytest.raises(RequestTooLarge) as caught:
        await client.process("x" * 5000)
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


def workers(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "dtesn_sidecar.compute.worker" in child.cmdline()]


async def test_a_deadline_that_passes_in_the_server_is_its_504_and_is_not_tried_again() -> None:
    with running(clean=False) as server:
        async with DTESNClient(server.url) as client:
            await client.process("warm")
            for worker in workers(server):
                worker.send_signal(signal.SIGSTOP)
            with pytest.raises((DeadlineExceeded, TimedOut)) as caught:  # on a machine that stalls, our own deadline may be first
                await client.process("x", timeout=4.0)
            assert caught.value.attempts == 1
            if isinstance(caught.value, DeadlineExceeded):
                assert (caught.value.status, caught.value.code) == (504, "deadline_exceeded")
        server.process.kill()


async def test_a_server_that_hangs_costs_the_call_its_timeout_and_no_more() -> None:
    with running(clean=False) as server:
        async with DTESNClient(server.url) as client:
            await client.process("warm")
            server.terminate(signal.SIGSTOP)
            for attempt in (client.process("x", timeout=1.0), client.ready(timeout=1.0), client.process_batch(["x"], timeout=1.0)):
                with pytest.raises(TimedOut):
                    await attempt
            server.terminate(signal.SIGCONT)
            assert (await client.process("again", timeout=100.0)).status == "success"
        server.process.kill()


async def test_a_cancelled_call_is_withdrawn_by_the_server() -> None:
    with running(clean=False) as server:
        async with DTESNClient(server.url) as client:
            await client.process("warm")
            for worker in workers(server):
                worker.send_signal(signal.SIGSTOP)
            task = asyncio.create_task(client.process("x", timeout=200.0))

            async def active(number: int) -> bool:
                return (await client.batch_metrics()).server_load["active_requests"] == number

            await until(lambda: active(1))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: active(0))
            assert await counted(server, "dtesn_cancellations_total") == 1
        server.process.kill()


async def test_where_nobody_listens_the_call_fails_as_not_sent() -> None:
    with running() as server:
        url = server.url
        server.terminate()
        await asyncio.to_thread(server.end)
    async with DTESNClient(url, retries=RetryPolicy(attempts=3, base_seconds=0.0)) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.process("x")
        assert (caught.value.sent, caught.value.attempts) == (False, 3)
        with pytest.raises(ConnectionFailed):
            await client.ready()


# -- overload ----------------------------------------------------------------------------------------------------------

TINY = {"DTESN_BATCHING_MAX_QUEUE_SIZE": "2", "DTESN_BATCHING_MAX_BATCH_SIZE": "2", "DTESN_BATCHING_TARGET_BATCH_SIZE": "2"}


async def test_an_overloaded_server_refuses_and_with_patience_every_call_succeeds() -> None:
    texts = ["x" * (3000 + n) for n in range(60)]
    with running(TINY) as server:
        async with DTESNClient(server.url, timeout=250.0, retries=NEVER) as client:
            outcomes = await asyncio.gather(*(client.process(text) for text in texts), return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
            assert refused
            assert all(outcome.code == "queue_full" and outcome.retry_after >= 1 and outcome.attempts == 1 for outcome in refused)
            assert len(refused) < len(texts)
        async with DTESNClient(server.url, timeout=250.0, retries=PATIENT) as client:
            answers = await asyncio.gather(*(client.process(text) for text in texts))
            assert [answer.result.processed_output.nodes for answer in answers] == [len(text) for text in texts]


async def test_the_budget_keeps_retries_from_amplifying_an_overload() -> None:
    policy = RetryPolicy(attempts=10_000, total_seconds=250.0, base_seconds=0.0, budget_ratio=0.1, budget_burst=5.0)
    calls = 60
    with running(TINY) as server:
        async with DTESNClient(server.url, timeout=250.0, retries=policy) as client:
            outcomes = await asyncio.gather(*(client.process("x" * 4000) for _ in range(calls)), return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert refused
            assert all(isinstance(outcome, Overloaded) and "budget" in outcome.__notes__[0] for outcome in refused)
        made = await counted(server, "dtesn_http_responses_total", route="/dtesn/process_with_batching")
        assert calls < made <= calls * 1.1 + 5


# -- drain and restart -------------------------------------------------------------------------------------------------


async def test_a_draining_server_says_so_and_is_not_ready() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "100"}, clean=False) as server:
        async with DTESNClient(server.url, retries=NEVER) as client:
            server.terminate()

            async def leaving() -> bool:
                return (await client.ready(timeout=100.0)).status == "unavailable"

            await until(leaving)
            assert (await client.ready(timeout=100.0)).reasons == ["the server is shutting down"]
            assert (await client.process("x", timeout=100.0)).status == "success"  # for the delay it still serves
        server.process.kill()


@asynccontextmanager
async def calling(client: DTESNClient, clients: int, answered: list[int]) -> AsyncIterator[None]:
    """So many clients that call again and again; every call must succeed with its own answer."""
    stop = asyncio.Event()

    async def one(number: int) -> None:
        length = 1 + number
        while not stop.is_set():
            answer = await client.process("x" * length, timeout=200.0)
            assert answer.result.processed_output.nodes == length
            answered.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number))
        yield
        stop.set()


async def test_a_rolling_restart_on_the_same_port_fails_no_call() -> None:
    answered: list[int] = []

    async def more() -> None:
        before = len(answered)

        async def grown() -> bool:
            return len(answered) > before + 200

        await until(grown)

    with ExitStack() as servers:  # the last one outlives the calls
        server = servers.enter_context(running())
        async with DTESNClient(server.url, timeout=250.0, retries=PATIENT) as client, calling(client, 16, answered):
            await more()
            for _ in range(2):
                server.terminate()
                assert await asyncio.to_thread(server.end) == 0
                server = servers.enter_context(running(None, "--port", str(server.port)))
                await more()


async def test_without_retries_a_drain_is_seen_as_unavailable_or_broken() -> None:
    """What the policy above hides: the same restart with a client that never tries again."""
    with running() as server:
        async with DTESNClient(server.url, timeout=250.0, retries=NEVER) as client:

            async def call() -> BaseException:
                while True:
                    try:
                        await client.process("x" * 500)
                    except (Unavailable, ConnectionFailed) as error:
                        return error

            calls = [asyncio.create_task(call()) for _ in range(16)]

            async def busy() -> bool:
                return await counted(server, "dtesn_requests_total", outcome="ok") > 50

            await until(busy)
            server.terminate()
            errors = await asyncio.gather(*calls)
            assert {type(error) for error in errors} <= {Unavailable, ConnectionFailed}
            assert all(error.code == "draining" for error in errors if isinstance(error, Unavailable))
