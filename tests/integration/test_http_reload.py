"""A server follows its configuration file."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from pathlib import Path

from tests.integration.http_client import PROCESS, client, config, eventually, metric
from tests.integration.http_server import running


def swap(file: Path, text: str) -> str:
    """Replace the file as a mounted ConfigMap is replaced; the hash of the new one."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_changed_file_is_swapped_in_under_load_without_harm(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    first = swap(file, "batching: {strategy: fixed, targetBatchSize: 3, maxBatchSize: 4}\n")
    with running(None, "--config", str(file)) as server:
        async with client(server) as http:
            assert (await config(http))["config_hash"] == first
            stop = asyncio.Event()

            async def load(i: int) -> int:
                done = 0
                while not stop.is_set():
                    async with http.post(PROCESS, json={"input_data": f"client {i}"}) as answer:
                        assert answer.status == 200
                        assert (await answer.json())["result"]["processed_output"]["nodes"] == len(f"client {i}")
                    done += 1
                return done

            clients = [asyncio.create_task(load(i)) for i in range(16)]
            for target in (5, 2, 7):
                wanted = swap(file, f"batching: {{strategy: fixed, targetBatchSize: {target}, maxBatchSize: 8}}\n")
                found = await eventually(lambda: config(http), lambda c, w=wanted: c["config_hash"] == w)
                assert found["spec"]["batching"]["targetBatchSize"] == target
                assert await metric(http, "dtesn_config_info", hash=wanted) == 1
                current = partial(metric, http, "dtesn_batch_size_current")
                await eventually(current, lambda size, t=target: size == t)
            stop.set()
            assert min(await asyncio.gather(*clients)) > 0


async def test_a_bad_file_keeps_the_old_settings_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    first = swap(file, "batching: {targetBatchSize: 3}\n")
    with running(None, "--config", str(file), clean=False) as server:
        async with client(server) as http:
            swap(file, "batching: {targetBatchSize: 99, minBatchSize: x}\n")
            found = await eventually(lambda: config(http), lambda c: c["reload_errors"])
            assert {error["field"] for error in found["reload_errors"]} >= {"spec.batching.minBatchSize"}
            assert found["config_hash"] == first
            assert found["spec"]["batching"]["targetBatchSize"] == 3
            assert await metric(http, "dtesn_config_reload_errors_total") == 1
            async with http.post(PROCESS, json={"input_data": "a"}) as answer:
                assert answer.status == 200
            last = swap(file, "batching: {targetBatchSize: 4}\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == last)
            assert found["reload_errors"] == []
        server.terminate()
        assert server.end() == 0


def mount(folder: Path, version: int, text: str) -> str:
    """Put a version of the file into the folder as the kubelet does: a folder of its own, to which `..data` then points."""
    there = folder / f"..version_{version}"
    there.mkdir()
    (there / "batcher.yaml").write_text(text)
    (folder / "..data_tmp").symlink_to(there.name)
    (folder / "..data_tmp").rename(folder / "..data")
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_mounted_configmap_is_followed_through_its_symlinks_and_when_it_comes_back(tmp_path: Path) -> None:
    first = mount(tmp_path, 1, "batching: {targetBatchSize: 3}\n")
    file = tmp_path / "batcher.yaml"
    file.symlink_to("..data/batcher.yaml")
    with running(None, "--config", str(file), clean=False) as server:
        async with client(server) as http:
            assert (await config(http))["config_hash"] == first
            second = mount(tmp_path, 2, "batching: {targetBatchSize: 4}\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == second)
            assert found["spec"]["batching"]["targetBatchSize"] == 4
            (tmp_path / "..data").unlink()
            found = await eventually(lambda: config(http), lambda c: c["reload_errors"])
            assert found["config_hash"] == second
            assert str(file) in found["reload_errors"][0]["message"]
            third = mount(tmp_path, 3, "batching: {targetBatchSize: 5}\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == third)
            assert (found["reload_errors"], found["spec"]["batching"]["targetBatchSize"]) == ([], 5)
        server.terminate()
        assert await asyncio.to_thread(server.end) == 0


async def test_what_needs_a_restart_is_said_and_not_done(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    swap(file, "batching: {targetBatchSize: 3}\n")
    with running(None, "--config", str(file)) as server:
        async with client(server) as http:
            wanted = swap(file, "batching: {targetBatchSize: 4}\nmodel: {seed: 7}\nload: {system: {weight: 0}}\nreplicas: 5\n")
            found = await eventually(lambda: config(http), lambda c: c["config_hash"] == wanted)
            assert found["needs_restart"] == ["model.seed"]
            assert found["spec"]["model"]["seed"] == 42
            async with http.get("/dtesn/batch_metrics") as answer:
                assert set((await answer.json())["server_load"]) == {"active_requests", "queue"}


async def test_a_load_source_that_cannot_be_read_is_no_data_and_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    swap(file, "load: {prometheus: [{name: mine, url: 'http://127.0.0.1:1/?token=s3cr3t', query: up}]}\n")
    with running(None, "--config", str(file)) as server:
        async with client(server) as http:

            async def load() -> dict[str, dict[str, object]]:
                async with http.get("/dtesn/batch_metrics") as answer:
                    return (await answer.json())["server_load"]

            found = await eventually(load, lambda sources: "not polled" not in str(sources))
            assert found["mine"]["value"] is None
            assert "no connection to 127.0.0.1:1" in found["mine"]["reason"]
            assert "s3cr3t" not in str(await config(http))
