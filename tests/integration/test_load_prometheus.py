"""The `prometheus` provider against a real Prometheus: what its answers mean, credentials, certificates, its death and its return."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from tests.integration.http_server import running
from tests.integration.prometheus_server import (
    PASSWORD,
    PASSWORD_BCRYPT,
    Authority,
    Exporter,
    Prometheus,
    eventually,
    exporting,
    needs_prometheus,
    prometheus,
    wait_for,
)

from dtesn_api.spec import PrometheusAuth, PrometheusSource, PrometheusTls
from dtesn_sidecar.load import NoData, Reading, ServerLoadTracker
from dtesn_sidecar.load.prometheus import prometheus_load
from dtesn_sidecar.load.readings import LoadSource

pytestmark = needs_prometheus

PATIENT = 100.0  # seconds; the machine may be busy


def source(url: str, query: str, **fields: object) -> PrometheusSource:
    whole = {"name": "mine", "timeout_seconds": PATIENT, "stale_after_seconds": 1000.0, **fields}
    return PrometheusSource(url=url, query=query, **whole)


async def ask(url: str, query: str, **fields: object) -> Reading | NoData:
    answer = await prometheus_load(source(url, query, **fields), time.monotonic, time.time)()
    assert isinstance(answer, Reading | NoData)
    return answer


async def reason(url: str, query: str, **fields: object) -> str:
    answer = await ask(url, query, **fields)
    assert isinstance(answer, NoData), answer
    return answer.reason


async def value(url: str, query: str, **fields: object) -> float:
    answer = await ask(url, query, **fields)
    assert isinstance(answer, Reading), answer
    return answer.value


async def until(url: str, query: str, kind: type[Reading] | type[NoData], **fields: object) -> Reading | NoData:
    """The answer, once it is of that kind."""

    async def asked() -> Reading | NoData | None:
        answer = await ask(url, query, **fields)
        return answer if isinstance(answer, kind) else None

    return await eventually(asked)


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    with exporting("") as exporter:
        yield exporter


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, exporter: Exporter) -> Iterator[Prometheus]:
    """It scrapes a real sidecar and the exporter."""
    with (
        running() as sidecar,
        prometheus(tmp_path_factory.mktemp("prometheus"), {"sidecar": sidecar.port, "exporter": exporter.port}) as server,
    ):
        wait_for(lambda: server.query('dtesn_batch_size_current{job="sidecar"}'))
        yield server


# -- answers -------------------------------------------------------------------------------------------------------


async def test_a_gauge_of_a_scraped_sidecar_is_a_load(server: Prometheus) -> None:
    found = await until(server.url, "dtesn_batch_size_current", Reading, max=32)
    assert 0 < found.value <= 1


@pytest.mark.parametrize(
    ("query", "scale", "load"),
    [
        ("vector(5)", {"max": 10}, 0.5),
        ("vector(-5)", {"min": -10, "max": 10}, 0.25),
        ("vector(-1)", {}, 0.0),
        ("vector(99)", {}, 1.0),
        ("0.25", {}, 0.25),
        ("scalar(vector(0.75))", {}, 0.75),
        ("avg(vector(30)) / 40", {}, 0.75),
    ],
)
async def test_vectors_and_scalars_are_scaled_and_clamped(server: Prometheus, query: str, scale: dict[str, float], load: float) -> None:
    assert await value(server.url, query, **scale) == load


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("nothing_of_that_name", "the query yields no series"),
        ("vector(1) > 2", "the query yields no series"),
        ("vector(0) / 0", "the query yields nan and no number"),
        ("vector(1) / 0", "the query yields inf and no number"),
        ("-1 / 0", "the query yields -inf and no number"),
        ('"text"', "the query yields a string, not a vector or a scalar"),
        ("up[1m]", "the query yields a matrix, not a vector or a scalar"),
    ],
)
async def test_what_is_no_number_is_no_data_and_says_why(server: Prometheus, query: str, why: str) -> None:
    assert await reason(server.url, query) == why


async def test_an_error_of_prometheus_is_quoted(server: Prometheus) -> None:
    found = await reason(server.url, "sum(up")
    assert found.startswith("HTTP 400, bad_data: invalid parameter")
    assert "parse error" in found


async def test_of_several_series_the_highest_number_counts(server: Prometheus, exporter: Exporter) -> None:
    exporter.text = 'busy{worker="a"} 0.2\nbusy{worker="b"} 0.75\nbusy{worker="c"} 0.5\nbusy{worker="d"} NaN\n'
    found = await until(server.url, "busy", Reading)
    assert found.value == 0.75


@pytest.mark.parametrize("query", ["old", '{__name__="old"}', ' old{job="exporter"} '])
async def test_a_reading_of_a_series_is_as_old_as_its_sample(server: Prometheus, exporter: Exporter, query: str) -> None:
    # A gateway may hand out samples with times of their own. The API puts the time of evaluation on them.
    exporter.text = f"old 0.5 {int((time.time() - 60) * 1000)}\n"
    found = await until(server.url, query, Reading)
    assert time.monotonic() - found.at >= 60


async def test_an_expression_is_as_old_as_its_evaluation(server: Prometheus, exporter: Exporter) -> None:
    exporter.text = f"older 0.5 {int((time.time() - 100) * 1000)}\n"
    wait_for(lambda: server.query("older"))
    before = time.monotonic()
    found = await ask(server.url, "max(older)")
    assert isinstance(found, Reading)
    assert found.at >= before - 1  # the two clocks are read apart


async def test_the_tracker_calls_an_old_sample_stale(server: Prometheus, exporter: Exporter) -> None:
    exporter.text = f"aged 0.5 {int((time.time() - 60) * 1000)}\n"
    wait_for(lambda: server.query("aged"))
    async with ServerLoadTracker() as tracker:
        spec = source(server.url, "aged", stale_after_seconds=30.0)
        tracker.configure([LoadSource("mine", prometheus_load(spec, time.monotonic, time.time), stale_after=30)])
        await eventually(lambda: tracker.readings()[0].age is not None)
        state = tracker.readings()[0]
        assert isinstance(state.result, NoData)
        assert "stale: the last reading is" in state.result.reason
        assert state.age >= 60
        assert tracker.get_current_load() is None


async def test_a_series_whose_target_is_gone_is_no_data(server: Prometheus, exporter: Exporter) -> None:
    exporter.text = "leaving 0.5\n"
    await until(server.url, "leaving", Reading)
    exporter.text = ""
    found = await until(server.url, "leaving", NoData)
    assert found == NoData("the query yields no series")


async def test_a_prefix_and_a_query_of_the_url_are_kept(server: Prometheus) -> None:
    assert await reason(server.url + "/prefix/", "up") == "HTTP 404 with text/plain: not an answer of the Prometheus API"
    assert await value(server.url + "/?stats=all#part", "vector(1)") == 1.0


async def test_a_server_that_is_killed_is_no_data_and_one_that_returns_is_read_again(tmp_path: Path) -> None:
    with prometheus(tmp_path, {}) as server:
        sources = [
            LoadSource(
                name,
                prometheus_load(source(server.url, query), time.monotonic, time.time),
                interval=0.1,
                stale_after=3600,
                hold=hold,
            )
            for name, query, hold in (("strict", "vector(0.25)", 0.0), ("held", "vector(0.75)", 3600.0))
        ]
        async with ServerLoadTracker() as tracker:
            tracker.configure(sources)

            await eventually(lambda: tracker.get_current_load() == 0.5)
            server.kill()
            await eventually(lambda: tracker.get_current_load() == 0.75)  # one is held, the other is not
            strict, held = tracker.readings()
            assert isinstance(held.result, Reading)
            assert "no connection to 127.0.0.1" in strict.result.reason or "connection" in strict.result.reason
            await asyncio.to_thread(server.start)
            await eventually(lambda: tracker.get_current_load() == 0.5)


async def test_a_server_that_hangs_is_given_up_after_its_time_and_read_again_when_it_goes_on(tmp_path: Path) -> None:
    with prometheus(tmp_path, {}) as server:
        spec = source(server.url, "vector(0.5)", timeout_seconds=0.2)
        provider = prometheus_load(spec, time.monotonic, time.time)
        async with ServerLoadTracker() as tracker:
            tracker.configure([LoadSource("mine", provider, interval=0.1, stale_after=3600, hold=0)])
            await eventually(lambda: tracker.get_current_load() == 0.5)
            server.process.send_signal(signal.SIGSTOP)
            try:
                await eventually(lambda: tracker.readings()[0].result == NoData("no answer within 0.2 s"))
                assert tracker.get_current_load() is None
            finally:
                server.process.send_signal(signal.SIGCONT)
            await eventually(lambda: tracker.get_current_load() == 0.5)


# -- credentials and certificates ----------------------------------------------------------------------------------


async def test_basic_authentication_from_files_that_rotate(tmp_path: Path) -> None:
    user, password = tmp_path / "username", tmp_path / "password"
    user.write_text("reader\n")
    password.write_text("wrong-word\n")
    auth = PrometheusAuth(username_file=str(user), password_file=str(password))
    with prometheus(tmp_path / "server", {}, {"basic_auth_users": {"reader": PASSWORD_BCRYPT}}) as server:
        provider = prometheus_load(source(server.url, "vector(1)", auth=auth), time.monotonic, time.time)
        assert await provider() == NoData("HTTP 401: the credentials are missing or not accepted")
        password.write_text(f"{PASSWORD}\n")
        assert isinstance(await provider(), Reading)
        password.unlink()
        assert await provider() == NoData(f"file {password} missing")
        assert await reason(server.url, "vector(1)") == "HTTP 401: the credentials are missing or not accepted"


@pytest.fixture
async def gateway(server: Prometheus) -> AsyncIterator[TestServer]:
    """Prometheus knows no tokens; where they are asked for, a proxy stands in front of it."""

    async def forward(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer the-token":
            return web.Response(status=403, text="no")
        async with ClientSession() as session, session.get(server.url + request.path_qs) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

    app = web.Application()
    app.router.add_get("/{path:.*}", forward)
    async with TestServer(app) as proxy:
        yield proxy


async def test_a_bearer_token_from_a_file_that_rotates(gateway: TestServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    url = str(gateway.make_url("/"))
    provider = prometheus_load(source(url, "vector(1)", auth=PrometheusAuth(bearer_token_file=str(token))), time.monotonic, time.time)
    assert await provider() == NoData(f"file {token} missing")
    token.write_text("an-old-token")
    assert await provider() == NoData("HTTP 403: the credentials are missing or not accepted")
    token.write_text("the-token\n")
    assert isinstance(await provider(), Reading)


async def test_a_key_of_a_secret_that_is_missing_is_named_as_such(server: Prometheus, tmp_path: Path) -> None:
    auth = PrometheusAuth(bearer_token_file=str(tmp_path / "monitoring" / "token"))
    provider = prometheus_load(source(server.url, "vector(1)", auth=auth), time.monotonic, time.time, tmp_path)
    assert await provider() == NoData("secret monitoring, key token missing")
    (tmp_path / "monitoring").mkdir()
    assert await provider() == NoData("secret monitoring, key token missing")


async def test_tls_with_certificates_on_both_sides_that_rotate(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    cert, key = ours.issue("server", "prometheus.monitoring.svc")
    web_config = {
        "tls_server_config": {
            "cert_file": cert,
            "key_file": key,
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": ours.ca_file,
        }
    }
    client_cert, client_key = others.issue("client", "sidecar")
    known = {"ca_file": ours.ca_file, "server_name": "prometheus.monitoring.svc"}
    with prometheus(tmp_path / "server", {}, web_config) as server:

        def provider(**tls: str):
            return prometheus_load(source(server.url, "vector(1)", tls=PrometheusTls(**tls)), time.monotonic, time.time)

        async def why(**tls: str) -> str:
            answer = await provider(**tls)()
            assert isinstance(answer, NoData)
            return answer.reason

        rotating = provider(**known, cert_file=client_cert, key_file=client_key)
        assert "connection failed" in (await rotating()).reason  # a client certificate of another authority
        ours.issue("client", "sidecar")
        assert isinstance(await rotating(), Reading)
        os.unlink(client_key)
        assert await rotating() == NoData(f"file {client_key} missing")

        assert "connection failed" in await why(**known)  # no client certificate
        assert "certificate verify failed" in await why(ca_file=others.ca_file, server_name="prometheus.monitoring.svc")
        assert "certificate verify failed" in await why(server_name="prometheus.monitoring.svc")  # the system's authorities
        assert "IP address mismatch" in await why(ca_file=ours.ca_file)  # the name of the URL
        assert "certificate is not valid for 'other.svc'" in await why(ca_file=ours.ca_file, server_name="other.svc")
