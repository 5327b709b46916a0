"""Load in a whole server: what it does to batches, what `/dtesn/batch_metrics` and `/metrics` say of it, and that it holds up nobody."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.integration.http_client import PROCESS, client
from tests.integration.http_server import Server, running
from tests.integration.prometheus_server import eventually, exporting, needs_prometheus, prometheus

BATCHING = {"targetBatchSize": 16, "loadAdjustmentFactor": 0.5, "adaptationRate": 1, "enableAdaptiveSizing": False}


@contextmanager
def serving(folder: Path, load: Mapping[str, Any], **spec: Any) -> Iterator[Server]:
    """A server whose load is that alone."""
    file = folder / "batcher.yaml"
    file.write_text(json.dumps({"load": {"queue": {"weight": 0}, "system": {"weight": 0}, **load}, **spec}))
    with running(None, "--config", str(file)) as server:
        yield server


async def sources(http: aiohttp.ClientSession) -> dict[str, Any]:
    """Every source of load with what it says, once each has been polled."""

    async def polled() -> dict[str, Any] | None:
        async with http.get("/dtesn/batch_metrics") as answer:
            found = (await answer.json())["server_load"]
        del found["active_requests"]
        return None if "not polled yet" in str(found) else found

    return await eventually(polled)


async def window_ms(http: aiohttp.ClientSession, load: float | None, size: int) -> float:
    """The window of the first event of the live page that has this load and batch size."""
    async with http.get("/events") as answer:
        async for line in answer.content:
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                manager, metrics = event.get("manager"), event.get("metrics")
                if manager and manager["load"] == load and metrics["current_batch_size"] == size:
                    return manager["wait_ms"]
    raise AssertionError("the events have ended")


async def samples(http: aiohttp.ClientSession) -> dict[str, float]:
    """The load and the batch size of `/metrics`, as they stand there."""
    async with http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(("dtesn_load", "dtesn_batch_size_current")))
    return {name: float(value) for name, value in pairs}


@needs_prometheus
async def test_rising_load_in_a_real_prometheus_makes_batches_smaller_and_windows_shorter_and_back(tmp_path: Path) -> None:
    with exporting("load 0.5\n") as exporter, prometheus(tmp_path / "prometheus", {"gateway": exporter.port}) as monitor:
        query = {"name": "gateway", "url": monitor.url, "query": "max_over_time(load[2s])", "max": 10, "intervalSeconds": 0.1}
        query |= {"timeoutSeconds": 100, "staleAfterSeconds": 1000, "holdSeconds": 1000}
        with serving(tmp_path, {"prometheus": [query]}, batching=BATCHING) as server:
            async with client(server) as http:

                async def reached(load: float, size: int) -> float:
                    """Set the load, wait until metrics and JSON show it with that size; the window then, in ms."""
                    exporter.text = f"load {load * 10}\n"

                    async def shown() -> bool:
                        said, found = await samples(http), await sources(http)
                        async with http.get("/dtesn/batch_metrics") as answer:
                            current = (await answer.json())["current_batch_size"]
                        return (
                            said.get('dtesn_load_ratio{provider="gateway"}') == load
                            and said.get("dtesn_load_combined_ratio") == load
                            and said["dtesn_batch_size_current"] == size
                            and found["gateway"]["value"] == load
                            and current == size
                        )

                    await eventually(shown)
                    return await window_ms(http, load, size)

                middle = await reached(0.5, 16)
                full = await reached(1.0, 8)
                high = await reached(0.9, 12)
                assert await reached(0.5, 16) == pytest.approx(middle)
                idle = await reached(0.0, 24)
                assert full == pytest.approx(5)
                assert idle == pytest.approx(50)
                assert full < high < middle < idle


async def test_an_engine_beside_the_server_makes_batches_smaller_as_its_requests_or_its_cache_fill_and_back(tmp_path: Path) -> None:
    figures = {"num_requests_running": 0.0, "num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text="".join(f'vllm:{name}{{engine="0"}} {value}\n' for name, value in figures.items()))

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as engine:
        load = {"engine": {"url": str(engine.make_url("/")), "maxRequests": 10}}
        with serving(tmp_path, load, batching=BATCHING) as server:
            async with client(server) as http:

                async def reached(running: int, waiting: int, cache: float, load: float, size: int) -> None:
                    """Set the engine's figures, and wait until metrics and JSON show that load and that size of batches."""
                    figures.update(num_requests_running=running, num_requests_waiting=waiting, kv_cache_usage_perc=cache)

                    async def shown() -> bool:
                        said, found = await samples(http), await sources(http)
                        return (
                            found["engine"]["value"] == said.get('dtesn_load_ratio{provider="engine"}') == load
                            and said["dtesn_batch_size_current"] == size
                        )

                    await eventually(shown)

                await reached(5, 0, 0.1, load=0.5, size=16)
                await reached(7, 3, 0.1, load=1.0, size=8)  # what waits counts too
                await reached(5, 0, 0.9, load=0.9, size=12)  # the cache is fuller than the slots
                await reached(0, 0, 0.0, load=0.0, size=24)
                await reached(5, 0, 0.1, load=0.5, size=16)


async def test_what_has_no_data_is_null_with_its_reason_and_absent_from_metrics(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        secret = {"name": "locked", "url": url, "query": "up", "auth": {"bearerTokenFile": "/etc/dtesn/secrets/not-there/token"}}
        load = {
            "prometheus": [{"name": "gone", "url": url, "query": "up", "timeoutSeconds": 100}, secret],
            "engine": {"url": url},
            "queue": {"weight": 1},
        }
        with serving(tmp_path, load) as server:
            async with client(server) as http:
                found = await sources(http)
                assert {name for name, source in found.items() if source["value"] is None} == {"gone", "locked", "engine"}
                assert "no connection to 127.0.0.1" in found["gone"]["reason"]
                assert found["locked"]["reason"] == "secret not-there, key token missing"
                assert found["engine"]["reason"].startswith("/load: no connection to 127.0.0.1")
                assert all("age_seconds" not in found[name] for name in ("gone", "locked", "engine"))
                said = await samples(http)
                assert 'dtesn_load_ratio{provider="queue"}' in said
                for name in ("gone", "locked", "engine"):
                    assert f'dtesn_load_ratio{{provider="{name}"}}' not in said
                    assert f'dtesn_load_age_seconds{{provider="{name}"}}' not in said


async def test_without_any_data_the_combined_load_is_absent_and_batches_have_their_normal_size(tmp_path: Path) -> None:
    with serving(tmp_path, {"engine": {"url": "http://127.0.0.1:1"}}, batching=BATCHING) as server:
        async with client(server) as http:
            await sources(http)
            said = await samples(http)
            assert "dtesn_load_combined_ratio" not in said
            assert said["dtesn_batch_size_current"] == 16
            await window_ms(http, None, 16)


async def test_requests_are_answered_while_every_provider_hangs(tmp_path: Path) -> None:
    asked: set[str] = set()
    everyone = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        asked.add(request.query.get("query", request.path))
        if len(asked) == 4:
            everyone.set()
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/{path:.*}", hang)
    # No poll ends within this test: a request that waited for one would not either.
    async with TestServer(app) as hung:
        url = str(hung.make_url("/"))
        one = {"url": url, "timeoutSeconds": 3600}
        load = {"prometheus": [{**one, "name": "a", "query": "a"}, {**one, "name": "b", "query": "b"}], "engine": {"url": url}}
        with serving(tmp_path, load) as server:
            async with client(server) as http:
                await everyone.wait()

                async def post(text: str) -> int:
                    async with http.post(PROCESS, json={"input_data": text, "timeout": 100}) as answer:
                        return answer.status

                assert set(await asyncio.gather(*(post("n" * length) for length in range(1, 65)))) == {200}
                async with http.get("/dtesn/batch_metrics") as answer:
                    found = (await answer.json())["server_load"]
                assert found["a"]["reason"] == found["b"]["reason"] == "not polled yet"
