"""The table of load providers: its names are the spec's, and each makes what the spec says."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from dtesn_api.spec import EngineSource, LoadConfiguration, NvmlSource, PrometheusSource, QueueSource, SystemSource
from dtesn_sidecar.load import NoData
from dtesn_sidecar.load.providers import FACTORIES, NOT_AVAILABLE, Inputs, sources
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


async def test_what_this_version_does_not_have_is_no_data_with_the_reason() -> None:
    load = LoadConfiguration(
        prometheus=(PrometheusSource(name="mine", url="http://prometheus:9090", query="up", weight=2),),
        nvml=NvmlSource(weight=1),
        engine=EngineSource(url="http://localhost:8000"),
    )
    made = {source.name: source for source in sources(load, inputs())}
    assert set(made) == {"mine", "queue", "system", "nvml", "engine"}
    assert made["mine"].weight == 2
    for name in ("mine", "nvml", "engine"):
        answer = made[name].provider()
        assert inspect.isawaitable(answer)
        assert await answer == NoData(NOT_AVAILABLE)


@pytest.mark.parametrize(("share", "load"), [(None, None), (0.4, 0.4), (1.2, 1.0), (-0.1, 0.0)])
async def test_the_queue_provider_is_the_busy_share_within_bounds(share: float | None, load: float | None) -> None:
    answer = queue_load(lambda: share)()
    assert inspect.isawaitable(answer)
    assert await answer == load
