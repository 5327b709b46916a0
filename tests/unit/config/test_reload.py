"""Following the file: symlinks swapped, files renamed, bad versions passed over, and what a change touches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec, LoadConfiguration, ModelConfiguration, NvmlSource, decode_spec
from dtesn_sidecar.config import Configuration, adopt, changes, load_configuration, watch
from dtesn_sidecar.config.reload import FileState, Fingerprint, fingerprint, look

TICK = 0.002


def target(size: int) -> str:
    return f"batching: {{targetBatchSize: {size}}}\n"


def write(file: Path, text: str) -> None:
    """As an editor does: a new file renamed over the old."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "batcher.yaml"
    write(path, target(4))
    return path


async def following(versions: AsyncIterator[Configuration | SpecInvalid]) -> Configuration | SpecInvalid:
    async with asyncio.timeout(250):
        return await anext(versions)


def size(version: Configuration | SpecInvalid) -> int:
    assert isinstance(version, Configuration)
    return version.spec.batching.target_batch_size


async def test_a_renamed_file_is_followed(file: Path) -> None:
    started = load_configuration(file, {})
    async with aclosing(watch(started, {}, interval=TICK)) as versions:
        for wanted in (5, 6):
            write(file, target(wanted))
            version = await following(versions)
            assert size(version) == wanted
            assert version == load_configuration(file, {})


async def test_the_symlink_swap_of_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    def publish(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "batcher.yaml").write_text(text)
        os.symlink(name, tmp_path / "..data_tmp")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    publish("..2026_01", target(4))
    mounted = tmp_path / "batcher.yaml"
    os.symlink("..data/batcher.yaml", mounted)
    async with aclosing(watch(load_configuration(mounted, {}), {}, interval=TICK)) as versions:
        publish("..2026_02", target(9))
        assert size(await following(versions)) == 9


async def test_a_file_that_is_written_in_place_is_followed(file: Path) -> None:
    async with aclosing(watch(load_configuration(file, {}), {}, interval=TICK)) as versions:
        file.write_text(target(12))  # noqa: ASYNC240 - what an editor does in its own process
        assert size(await following(versions)) == 12


async def test_a_bad_file_gives_its_problems_once_and_the_next_good_one_counts(file: Path) -> None:
    async with aclosing(watch(load_configuration(file, {}), {}, interval=TICK)) as versions:
        write(file, "batching: {targetBatchSize: 0, nope: 1}")
        bad = await following(versions)
        assert isinstance(bad, SpecInvalid)
        assert [problem.field for problem in bad.problems] == ["spec.batching.nope", "spec.batching.targetBatchSize"]
        write(file, target(5))
        assert size(await following(versions)) == 5


async def test_going_back_to_the_version_in_force_clears_the_errors(file: Path) -> None:
    async with aclosing(watch(load_configuration(file, {}), {}, interval=TICK)) as versions:
        write(file, "batching: [")
        assert isinstance(await following(versions), SpecInvalid)
        write(file, target(4))
        assert size(await following(versions)) == 4


async def test_a_file_that_is_gone_is_a_problem_until_it_is_back(file: Path) -> None:
    async with aclosing(watch(load_configuration(file, {}), {}, interval=TICK)) as versions:
        file.unlink()  # noqa: ASYNC240 - as above
        gone = await following(versions)
        assert isinstance(gone, SpecInvalid)
        assert "cannot be read" in str(gone)
        write(file, target(4))
        assert size(await following(versions)) == 4


async def test_a_change_between_loading_and_watching_is_not_missed(file: Path) -> None:
    started = load_configuration(file, {})
    write(file, target(7))
    async with aclosing(watch(started, {}, interval=TICK)) as versions:
        assert size(await following(versions)) == 7


async def test_the_environment_and_flags_count_before_the_file_after_a_reload_too(file: Path) -> None:
    environ, flags = {"DTESN_BATCHING_TARGET_BATCH_SIZE": "3"}, {"batching.minBatchSize": 2}
    async with aclosing(watch(load_configuration(file, environ, flags), environ, flags, interval=TICK)) as versions:
        write(file, "batching: {targetBatchSize: 9, minBatchSize: 9, maxBatchSize: 10}")
        version = await following(versions)
        assert isinstance(version, Configuration)
        assert version.spec.batching == BatchConfiguration(target_batch_size=3, min_batch_size=2, max_batch_size=10)


async def test_without_a_file_there_is_nothing_to_follow() -> None:
    assert [version async for version in watch(load_configuration(None, {}), {})] == []


versions_of_a_file = st.lists(st.sampled_from([None, (0, 1, 2, 3, 4), (0, 2, 2, 3, 4), (0, 3, 2, 3, 4)]), max_size=30)


@given(versions_of_a_file)
def test_a_version_is_read_once_at_its_second_look(looks: list[Fingerprint]) -> None:
    state, handled, before = FileState(), FileState().handled, FileState().last
    for now in looks:
        state, due = look(state, now)
        assert due == (now == before and now != handled)
        handled = now if due else handled
        before = now


def test_the_fingerprint_follows_the_symlink(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    link = tmp_path / "link"
    link.symlink_to("a")
    first = fingerprint(link)
    link.unlink()
    link.symlink_to("b")
    assert first == fingerprint(tmp_path / "a")
    assert fingerprint(link) == fingerprint(tmp_path / "b") != first
    assert fingerprint(tmp_path / "absent") is None


def test_changes_are_told_apart_by_when_they_take_effect() -> None:
    new = decode_spec(
        {
            "replicas": 5,
            "dynamicBatching": False,
            "model": {"order": 2, "readout": {"path": "/a"}},
            "batching": {"targetBatchSize": 9},
            "load": {"nvml": {"weight": 1}, "prometheus": [{"name": "a", "url": "http://p", "query": "up"}]},
            "sidecar": {"port": 9000, "env": [{"name": "A"}], "logging": {"level": "debug"}},
            "service": {"port": 81},
        }
    )
    assert changes(DTESNBatcherSpec(), new) == (
        ("batching.targetBatchSize", "load.prometheus", "load.nvml.weight"),
        ("dynamicBatching", "model.order", "model.readout", "sidecar.port", "sidecar.logging.level"),
    )
    assert changes(new, new) == ((), ())


def test_only_the_live_sections_are_adopted(file: Path) -> None:
    running = Configuration(spec=DTESNBatcherSpec(), source=file, config_hash="old")
    wanted = Configuration(
        spec=DTESNBatcherSpec(
            model=ModelConfiguration(order=2),
            batching=BatchConfiguration(target_batch_size=9, default_timeout=3),
            load=LoadConfiguration(nvml=NvmlSource(weight=1)),
        ),
        source=file,
        config_hash="new",
    )
    adopted = adopt(running, wanted)
    assert adopted.spec == DTESNBatcherSpec(batching=wanted.spec.batching, load=wanted.spec.load)
    assert adopted.config_hash == "new"
    assert changes(adopted.spec, wanted.spec) == ((), ("model.order",))


def test_live_settings_that_do_not_fit_the_running_model_are_refused() -> None:
    running = Configuration(spec=DTESNBatcherSpec(model=ModelConfiguration(max_nodes=60_000)))
    wanted = Configuration(spec=DTESNBatcherSpec(batching=BatchConfiguration(max_batch_nodes=5000)))
    with pytest.raises(SpecInvalid, match=r"spec\.model\.maxNodes \(60000\) must be at most batching\.maxBatchNodes \(5000\)"):
        adopt(running, wanted)
