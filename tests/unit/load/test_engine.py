"""What an LLM engine says of itself as a load: `/load`, `/metrics` of Aphrodite and vLLM, and the two together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from dtesn_api.spec import EngineSource
from dtesn_sidecar.load import NoData
from dtesn_sidecar.load.engine import Metrics, engine_load, engine_metrics, fullness, server_load
from dtesn_sidecar.load.http import Reply

MODEL = {"model_name": 'a/model "x\\y" {z}', "engine": "0"}


def exposition(prefix: str = "vllm", limit: str | None = None, **values: float) -> bytes:
    """What an engine of that kind answers, rendered by the library that they use."""
    registry = CollectorRegistry()
    for name, value in values.items():
        Gauge(f"{prefix}:{name}", name, MODEL, registry=registry).labels(**MODEL).set(value)
    Gauge(f"{prefix}:num_requests_waiting_by_reason", "no count of its own", ("reason",), registry=registry).labels("capacity").set(900)
    Histogram(f"{prefix}:e2e_request_latency_seconds", "latency", registry=registry).observe(1)
    Gauge("python_info", "another exporter", registry=registry).set(1)
    if limit is not None:
        label, _, number = limit.partition("=")
        labels = {"model_config_model": "m", label: number, "other_max_num_seqs": "7"}
        Gauge(f"{prefix}:vllm_config_info", "configuration", labels, registry=registry).labels(**labels).set(1)
    return generate_latest(registry)


def reply(body: bytes, status: int = 200) -> Reply:
    return Reply(status, "text/plain", body)


@pytest.mark.parametrize("prefix", ["vllm", "aphrodite"])
@pytest.mark.parametrize("cache", ["kv_cache_usage_perc", "gpu_cache_usage_perc"])
def test_both_engines_and_both_names_of_the_cache_are_known(prefix: str, cache: str) -> None:
    body = exposition(prefix, num_requests_running=12, num_requests_waiting=3, **{cache: 0.4})
    assert engine_metrics(reply(body)) == Metrics(15.0, 0.4, None)


@pytest.mark.parametrize("label", ["max_num_seqs", "scheduler_config_max_num_seqs"])
def test_the_limit_is_the_engines_own_where_it_exports_one(label: str) -> None:
    found = engine_metrics(reply(exposition(limit=f"{label}=256", num_requests_running=64, num_requests_waiting=0)))
    assert found == Metrics(64.0, None, 256)
    assert fullness(NoData("?"), found, None) == 0.25
    assert fullness(NoData("?"), found, 128) == 0.5
    assert fullness(NoData("?"), Metrics(32.0, None, None), None) == 0.5


def test_engines_side_by_side_add_up_and_the_fullest_cache_counts() -> None:
    lines = [
        b'vllm:num_requests_running{engine="0"} 4.0',
        b'vllm:num_requests_running{engine="1"} 6.0',
        b'vllm:num_requests_waiting{engine="0"} 0.0',
        b'vllm:kv_cache_usage_perc{engine="0"} 0.2',
        b'vllm:kv_cache_usage_perc{engine="1"} 0.7 1700000000000',
        b'vllm:vllm_config_info{engine="0",max_num_seqs="16"} 1.0',
        b'vllm:vllm_config_info{engine="1",max_num_seqs="16"} 1.0',
    ]
    assert engine_metrics(reply(b"\n".join(lines))) == Metrics(10.0, 0.7, 32)


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "many", ""])
def test_a_value_that_is_no_count_is_left_out(value: str) -> None:
    body = f"vllm:num_requests_running {value}\nvllm:kv_cache_usage_perc 0.25\n".encode()
    assert engine_metrics(reply(body)) == Metrics(None, 0.25, None)


def test_metrics_of_something_else_are_no_data() -> None:
    assert "neither running requests nor KV-cache usage" in engine_metrics(reply(b"up 1\n")).reason
    assert engine_metrics(reply(b"", 404)) == NoData("/metrics: HTTP 404")
    assert engine_metrics(NoData("no answer within 2 s")) == NoData("/metrics: no answer within 2 s")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"server_load": -1}', "/load: a count of -1"),
        (b'{"server_load": "3"}', "/load: text/plain without a number `server_load`"),
        (b'{"load": 3}', "/load: text/plain without a number `server_load`"),
        (b"[" * 5000, "/load: text/plain without a number `server_load`"),
        (b"\xff", "/load: text/plain without a number `server_load`"),
    ],
)
def test_a_load_that_is_no_count_is_no_data(body: bytes, why: str) -> None:
    assert server_load(reply(body)) == NoData(why)


COUNTS = st.floats(0, 1e6)


@given(st.one_of(st.none(), COUNTS), st.one_of(st.none(), COUNTS), st.one_of(st.none(), st.floats(0, 2)), st.integers(1, 10**6))
def test_the_load_is_the_fuller_of_requests_and_cache(inside: float | None, requests: float | None, cache: float | None, most: int) -> None:
    found = fullness(NoData("none") if inside is None else inside, Metrics(requests, cache), most)
    counts = [count / most for count in (inside, requests) if count is not None]
    shares = [*counts, *([] if cache is None else [cache])]
    if shares:
        assert found == pytest.approx(min(1.0, max(shares)))
    else:
        assert isinstance(found, NoData)


@given(st.binary(max_size=300))
@example(b"vllm:num_requests_running{" + b"}" * 200 + b" 1")
def test_whatever_metrics_are_sent_nothing_is_raised(body: bytes) -> None:
    for content in (body, b"vllm:num_requests_running" + body, b"aphrodite:kv_cache_usage_perc{" + body, b"vllm:cache_config_info{" + body):
        assert isinstance(engine_metrics(reply(content)), Metrics | NoData)
        assert isinstance(server_load(reply(content)), float | NoData)


@asynccontextmanager
async def engine(pages: Mapping[str, bytes | int]) -> AsyncIterator[str]:
    """An engine's HTTP server with those pages (a number: that status); its URL."""

    async def page(request: web.Request) -> web.Response:
        found = pages.get(request.path, 404)
        return web.Response(status=found) if isinstance(found, int) else web.Response(body=found)

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_an_engine_that_only_has_load_is_taken_at_its_word() -> None:
    pages = {"/load": b'{"server_load": 0}'}
    async with engine(pages) as url:
        provider = engine_load(EngineSource(url=url, max_requests=10))
        assert await provider() == 0.0
        pages["/load"] = b'{"server_load": 5}'
        assert await provider() == 0.5
        pages["/load"] = b'{"server_load": 50}'
        assert await provider() == 1.0


async def test_the_higher_of_both_counts_is_the_load_and_a_failing_one_is_left_out() -> None:
    pages: dict[str, bytes | int] = {"/load": b'{"server_load": 8}', "/metrics": exposition(num_requests_running=4, num_requests_waiting=0)}
    async with engine(pages) as url:
        provider = engine_load(EngineSource(url=url, max_requests=16))
        assert await provider() == 0.5
        pages["/metrics"] = exposition(num_requests_running=8, num_requests_waiting=4)
        assert await provider() == 0.75
        pages["/load"] = 500
        assert await provider() == 0.75
        pages["/metrics"] = 503
        assert await provider() == NoData("/load: HTTP 500; /metrics: HTTP 503")


async def test_a_zero_of_an_engine_that_does_not_count_is_no_load_of_zero() -> None:
    pages: dict[str, bytes | int] = {"/load": b'{"server_load": 0}', "/metrics": b"python_info 1\n"}
    async with engine(pages) as url:
        provider = engine_load(EngineSource(url=url, max_requests=10))
        found = await provider()
        assert isinstance(found, NoData)
        assert "perhaps it does not count" in found.reason
        pages["/load"] = b'{"server_load": 1}'
        assert await provider() == 0.1
        pages["/load"] = b'{"server_load": 0}'
        assert await provider() == 0.0  # it has counted before
