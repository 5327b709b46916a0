"""The life of a server: how it starts, and clients that go away. Reloads are in test_http_reload, the end in test_http_drain."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.integration import held_start
from tests.integration.http_client import PROCESS, client, eventually, metric, post_statuses
from tests.integration.http_server import LONG, SMALL, running


def serve(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DTESN_")}
    command = [sys.executable, "-m", "dtesn_sidecar", "serve", *arguments]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=LONG, check=False)


def test_a_bad_configuration_stops_the_start_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    file.write_text("batching: {targetBatchSize: 99, maxBatchWaitMs: -1}\nmodel: {esnSize: many}\nnonsense: 1\n")
    done = serve({"DTESN_BATCHING_AGING_MS": "x"}, "--config", str(file), "--port", "70000")
    assert done.returncode == 2
    for word in ("targetBatchSize", "maxBatchWaitMs", "esnSize", "nonsense", "agingMs", "70000"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    done = serve({}, "--config", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "none.yaml" in done.stderr


def test_a_backend_that_is_not_there_stops_the_start_with_a_sentence() -> None:
    done = serve({**SMALL, "DTESN_BACKEND": "cupy"}, "--host", "127.0.0.1", "--port", "0")
    assert done.returncode == 1
    assert "cupy" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_stops_the_start_with_a_sentence() -> None:
    with running(ready=False) as server:
        done = serve(dict(SMALL), "--host", "127.0.0.1", "--port", str(server.port))
        assert done.returncode == 1
        assert "in use" in done.stderr
        server.wait_until_ready()


async def test_until_the_workers_are_ready_the_server_lives_but_takes_nothing(tmp_path: Path) -> None:
    start = tmp_path / "start"
    with running({"DTESN_TEST_START_AT": str(start)}, ready=False, command=held_start.COMMAND) as server:
        async with client(server) as http:
            async with http.get("/healthz") as answer:
                assert answer.status == 200
            async with http.get("/readyz") as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
                assert "starting" in (await answer.json())["reasons"][0]
            async with http.post(PROCESS, json={"input_data": "a"}) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
            for path in ("/metrics", "/config", "/openapi.json"):
                async with http.get(path) as answer:
                    assert answer.status == 200
            async with http.get("/dtesn/batch_metrics") as answer:
                assert answer.status == 503
            start.touch()
            server.wait_until_ready()
            assert await post_statuses(http, "a", 1) == [200]


def test_a_server_that_is_ended_while_it_starts_ends_well(tmp_path: Path) -> None:
    with running({"DTESN_TEST_START_AT": str(tmp_path / "never")}, ready=False, command=held_start.COMMAND) as server:
        server.terminate()
        assert server.end() == 0


def test_a_readout_that_is_not_there_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    file.write_text("model: {readout: {path: /models/readout.safetensors}}\n")
    done = serve(dict(SMALL), "--host", "127.0.0.1", "--port", "0", "--config", str(file))
    assert done.returncode == 2
    assert "/models/readout.safetensors is unreadable (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_backend_that_was_taken_is_in_the_log() -> None:
    with running({"DTESN_BACKEND": "auto"}) as server:
        server.terminate()
        assert server.end() == 0
        assert '"message":"backend numpy on cpu, ' in server.log()


def test_the_text_log_is_one_line_per_record() -> None:
    with running({"DTESN_SIDECAR_LOGGING_FORMAT": "text"}, clean=False) as server:
        server.terminate()
        assert server.end() == 0
        lines = server.log().splitlines()
    assert any(" info drained" in line for line in lines)
    assert all(line.split()[1] in ("info", "warning") for line in lines)


async def test_a_client_that_goes_away_is_counted_and_harms_nobody() -> None:
    window = {"DTESN_BATCHING_STRATEGY": "fixed", "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "10000", "DTESN_BATCHING_MAX_BATCH_SECONDS": "60"}
    with running({**window, "DTESN_BATCHING_TARGET_BATCH_SIZE": "64", "DTESN_BATCHING_MAX_BATCH_SIZE": "64"}) as server:
        async with client(server) as http:

            async def one(nodes: int) -> tuple[int, int]:
                async with http.post(PROCESS, json={"input_data": "x" * nodes, "timeout": LONG}) as answer:
                    return answer.status, (await answer.json())["result"]["processed_output"]["nodes"]

            staying = [asyncio.create_task(one(1 + i)) for i in range(30)]
            leaving = [asyncio.create_task(one(101 + i)) for i in range(30)]
            pending = partial(metric, http, "dtesn_pending_requests")
            await eventually(pending, lambda found: found == 60)  # four are missing, so the window is open
            for task in leaving:
                task.cancel()
            await eventually(partial(metric, http, "dtesn_http_disconnects_total"), lambda found: found == 30)
            await eventually(pending, lambda found: found == 30)
            filling = [asyncio.create_task(one(201 + i)) for i in range(34)]
            assert await asyncio.gather(*staying) == [(200, 1 + i) for i in range(30)]
            assert await asyncio.gather(*filling) == [(200, 201 + i) for i in range(34)]
            assert await metric(http, "dtesn_cancellations_total") == 30
            assert await pending() == 0
        server.terminate()
        assert server.end() == 0
        assert sum(record["status"] == 499 for record in server.records()) == 30
