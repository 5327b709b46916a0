"""What happens to a real server shows in its /metrics: each event once, under the name and labels of the contract."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.http_server import LONG, Server, running
from tests.integration.prometheus_server import eventually

from dtesn_sidecar.compute.process import WORKER_NICE

pytestmark = pytest.mark.timeout(LONG + 50)
PROCESS = "/dtesn/process_with_batching"
# A lone request waits for a second one, for as long as a window may be.
ALONE = {
    "DTESN_BATCHING_STRATEGY": "fixed",
    "DTESN_BATCHING_ENABLE_ADAPTIVE_SIZING": "false",
    "DTESN_BATCHING_TARGET_BATCH_SIZE": "2",
    "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "10000",
}


async def scrape(http: aiohttp.ClientSession) -> dict[str, float]:
    """Every sample by its name and labels as they are written."""
    async with http.get("/metrics") as answer:
        text = await answer.text()
    return {
        sample.name + "".join(f"[{value}]" for name, value in sorted(sample.labels.items()) if name != "le"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has changed, and by how much."""
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}


async def post(http: aiohttp.ClientSession, path: str, **body: object) -> int:
    async with http.post(path, json={"timeout": 100, **body}) as answer:
        await answer.read()
        return answer.status


@pytest.fixture
async def http(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession]:
    with running(getattr(request, "param", None), clean=False) as server:
        async with aiohttp.ClientSession(server.url) as session:
            session.server = server  # type: ignore[attr-defined]
            yield session


async def test_requests_of_each_kind_are_counted_where_they_belong(http: aiohttp.ClientSession) -> None:
    before = await scrape(http)
    assert await post(http, PROCESS, input_data="hello", priority=0) == 200
    assert await post(http, "/dtesn/process", input_data="hello") == 200
    assert await post(http, "/dtesn/batch_process", inputs=["one", "two", "three"]) == 200
    assert await post(http, PROCESS, input_data=7) == 422
    grown = growth(before, await scrape(http))
    assert grown["dtesn_requests_total[dtesn][ok][0]"] == 1
    assert grown["dtesn_requests_total[dtesn][ok][1]"] == 4
    assert grown["dtesn_queue_seconds_count"] == grown["dtesn_compute_seconds_count"] == 5
    assert grown["dtesn_direct_requests_total[requested]"] == grown["dtesn_batches_total[direct]"] == 1
    assert grown["dtesn_batch_items_total"] == 4
    assert grown["dtesn_batch_places_total"] >= grown["dtesn_batch_items_total"]
    assert grown["dtesn_batch_size_sum"] == 5
    batches = sum(value for name, value in grown.items() if name.startswith("dtesn_batches_total"))
    assert batches == grown["dtesn_batch_size_count"] == grown["dtesn_batch_gap_seconds_count"] == grown["dtesn_slice_seconds_count"]
    assert sum(value for name, value in grown.items() if name.startswith("dtesn_worker_busy")) > 0
    assert grown["dtesn_nodes_total"] == len("hello") + len("hello") + len("onetwothree")
    assert grown[f"dtesn_http_responses_total[{PROCESS}][422]"] == 1
    assert "dtesn_bisection_runs_total" not in grown


async def test_a_deadline_that_cannot_be_met_is_a_refusal_or_a_miss_and_not_both(http: aiohttp.ClientSession) -> None:
    assert await post(http, PROCESS, input_data="hello") == 200
    before = await scrape(http)
    status = await post(http, PROCESS, input_data="hello", timeout=1e-6)
    grown = growth(before, await scrape(http))
    refused, missed = grown.get("dtesn_refusals_total[deadline]"), grown.get("dtesn_deadline_misses_total")
    assert (status, refused, missed) in ((429, 1, None), (504, None, 1))
    assert grown["dtesn_requests_total[dtesn][refused][1]" if refused else "dtesn_requests_total[dtesn][expired][1]"] == 1


@pytest.mark.parametrize("http", [ALONE], indirect=True)
async def test_a_client_that_leaves_while_its_request_waits_is_seen_in_the_queue_and_counted_as_gone(http: aiohttp.ClientSession) -> None:
    asking = asyncio.ensure_future(post(http, PROCESS, input_data="hello"))

    async def waits() -> bool:
        now = await scrape(http)
        return now["dtesn_pending_requests"] == 1 and now["dtesn_oldest_queued_seconds"] > 0

    async def gone() -> dict[str, float] | None:
        now = await scrape(http)
        return now if now["dtesn_http_disconnects_total"] == 1 else None

    await eventually(waits)
    asking.cancel()
    now = await eventually(gone)
    assert now["dtesn_cancellations_total"] == now["dtesn_requests_total[dtesn][cancelled][1]"] == 1
    assert now["dtesn_pending_requests"] == now["dtesn_oldest_queued_seconds"] == 0
    assert now["dtesn_deadline_misses_total"] == 0


async def test_a_worker_that_is_killed_is_a_restart_even_when_it_had_nothing_to_do(http: aiohttp.ClientSession) -> None:
    server: Server = http.server  # type: ignore[attr-defined]
    # The builder of weights is a child of the same command. It is nicer, and no compute worker.
    children = [(child, child.cmdline()) for child in psutil.Process(server.process.pid).children(recursive=True)]
    workers = [child for child, command in children if "dtesn_sidecar.compute.worker" in command and command[-1] == str(WORKER_NICE)]
    workers[0].send_signal(signal.SIGKILL)

    async def counted() -> bool:
        return (await scrape(http))["dtesn_worker_restarts_total[died]"] == 1

    await eventually(counted)
    assert await post(http, PROCESS, input_data="hello") == 200


async def test_a_configuration_file_that_is_not_taken_is_counted_and_the_old_one_stays_in_force(tmp_path: Path) -> None:
    file = tmp_path / "batcher.json"
    file.write_text(json.dumps({"batching": {"targetBatchSize": 4}}))
    with running(None, "--config", str(file), clean=False) as server:
        async with aiohttp.ClientSession(server.url) as http:
            (info,) = [name for name in await scrape(http) if name.startswith("dtesn_config_info")]
            file.write_text(json.dumps({"batching": {"targetBatchSize": "four"}}))

            async def counted() -> bool:
                return (await scrape(http))["dtesn_config_reload_errors_total"] >= 1

            await eventually(counted)
            assert [name for name in await scrape(http) if name.startswith("dtesn_config_info")] == [info]
            async with http.get("/config") as answer:
                assert f"dtesn_config_info[{(await answer.json())['config_hash']}]" == info
