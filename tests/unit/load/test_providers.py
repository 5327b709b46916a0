"""The table of load providers: its names are the spec's, and each makes what the spec says."""

from __future__ import annotations

import inspect
import subprocess
import sys

import msgspec
import pytest

from dtesn_api.spec import EngineSource, LoadConfiguration, NvmlSource, PrometheusSource, QueueSource, SystemSource
from dtesn_sidecar.load.providers import FACTORIES, Inputs, sources
from dtesn_sidecar.load.queue import queue_load


def inputs(share: float | None = 0.5) -> Inputs:
    return Inputs(busy_share=lambda: share, clock=lambda: 0.0)


def test_the_table_has_a_row_for_each_field_of_the_spec() -> None:
    assert set(FACTORIES) == {field.name for field in msgspec.structs.fields(LoadConfiguration)}


def test_by_default_the_queue_and_the_system_count_alike() -> None:
    assert [(source.name, source.weight) for source in sources(LoadConfiguration(), inputs())] == [("queue", 1.0), ("system", 1.0)]


def test_weight_zero_leaves_a_source_out() -> None:
    load = LoadConfiguration(queue=QueueSource(weight=0), system=SystemSource(weight=0))
    assert sources(load, inputs()) == []


def test_each_source_of_the_spec_becomes_one_with_its_settings() -> None:
    mine = PrometheusSource(
        name="mine", url="http://prometheus:9090", query="up", weight=2, interval_seconds=7, stale_after_seconds=70, hold_seconds=17
    )
    other = PrometheusSource(name="other", url="http://prometheus:9090", query="up")
    load = LoadConfiguration(
        prometheus=(mine, other), nvml=NvmlSource(weight=3), engine=EngineSource(url="http://localhost:8000", weight=4)
    )
    made = {source.name: source for source in sources(load, inputs())}
    assert {name: source.weight for name, source in made.items()} == {
        "mine": 2.0,
        "other": 1.0,
        "queue": 1.0,
        "system": 1.0,
        "nvml": 3.0,
        "engine": 4.0,
    }
    assert (made["mine"].interval, made["mine"].stale_after, made["mine"].hold, made["mine"].settings) == (7, 70, 17, mine)
    assert not any(source.saturating for source in made.values())


def test_an_engine_and_a_query_of_weight_zero_are_off() -> None:
    load = LoadConfiguration(
        prometheus=(PrometheusSource(name="mine", url="http://prometheus:9090", query="up", weight=0),),
        engine=EngineSource(url="http://localhost:8000", weight=0),
    )
    assert [source.name for source in sources(load, inputs())] == ["queue", "system"]


def in_another_process(program: str) -> str:
    """What a Python says that runs this, once it has ended by itself."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    return done.stdout.strip()


def test_the_library_of_gpus_is_imported_only_where_it_is_polled_and_no_http_client_without_the_spec() -> None:
    program = "import sys, dtesn_sidecar.load.{0}; print(*sorted({{'aiohttp', 'pynvml'}} & set(sys.modules)))"
    assert in_another_process(program.format("tracker, dtesn_sidecar.load.application, dtesn_sidecar.load.nvml")) == ""
    assert "pynvml" not in in_another_process(program.format("providers, dtesn_sidecar.app"))


def test_a_plain_function_that_never_returns_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from dtesn_sidecar import ServerLoadTracker
entered = threading.Event()
async def main():
    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(lambda: entered.set() or threading.Event().wait())
        while not entered.is_set():
            await asyncio.sleep(0.01)
asyncio.run(main())
print("ended")
"""
    assert in_another_process(program) == "ended"


@pytest.mark.parametrize(("share", "load"), [(None, None), (0.4, 0.4), (1.2, 1.0), (-0.1, 0.0)])
async def test_the_queue_provider_is_the_busy_share_within_bounds(share: float | None, load: float | None) -> None:
    answer = queue_load(lambda: share)()
    assert inspect.isawaitable(answer)
    assert await answer == load
