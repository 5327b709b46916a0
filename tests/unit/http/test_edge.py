"""The parts of the edge that are pure: trace context, Server-Timing, phases, orders, what configuration shows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.schema import to_wire
from dtesn_api.spec import (
    DTESNBatcherSpec,
    EngineSource,
    EnvironmentVariable,
    LoadConfiguration,
    PrometheusSource,
    SidecarConfiguration,
)
from dtesn_sidecar.app import shown
from dtesn_sidecar.errors import Draining, Unavailable
from dtesn_sidecar.health import Gate, Phase, liveness, readiness
from dtesn_sidecar.outputs import BatchOutcome, Timing
from dtesn_sidecar.routes_bulk import accepts_ndjson, batch_item, in_order, longest, overall
from dtesn_sidecar.routes_edge import server_timing, trace_of

HEX = "0123456789abcdef"


@given(st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16), st.text(HEX, min_size=2, max_size=2))
def test_a_trace_is_valid_exactly_where_neither_id_is_zero(trace: str, span: str, flags: str) -> None:
    valid = set(trace) != {"0"} and set(span) != {"0"}
    assert trace_of(f"00-{trace}-{span}-{flags}") == ((trace, flags) if valid else None)


@given(st.text())
def test_any_text_is_a_trace_or_none(text: str) -> None:
    assert trace_of(text) is None or text.count("-") >= 3


def test_a_later_version_of_the_trace_context_may_say_more() -> None:
    rest = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert trace_of(f"01-{rest}-more") is not None
    assert trace_of(f"00-{rest}-more") is None
    assert trace_of(f"ff-{rest}") is None


def test_server_timing_says_where_the_time_went() -> None:
    timing = Timing(0.05, 0.0, 0.01, 0.03, 8, "full")
    assert server_timing(0.05, timing) == 'queue;dur=10.000, compute;dur=30.000, batch;desc="8", closed;desc="full", total;dur=50.000'
    assert server_timing(0.05, dataclasses.replace(timing, build=0.004)).startswith("build;dur=4.000, ")
    assert server_timing(0.0012, None) == "total;dur=1.200"
    never_computed = dataclasses.replace(timing, compute=0.0, batch_items=0, closed_by="")
    assert server_timing(0.05, never_computed) == "queue;dur=10.000, total;dur=50.000"


def snapshot(**changed: bool) -> SimpleNamespace:
    state = {"running": True, "alive": True, "live": True, "draining": False} | changed
    return SimpleNamespace(**state, ready=state["running"] and state["alive"] and state["live"] and not state["draining"])


def test_a_dead_loop_and_hanging_workers_are_the_end_of_liveness() -> None:
    assert liveness(Phase.SERVING, snapshot()) == []
    assert "dead" in liveness(Phase.SERVING, snapshot(alive=False))[0]
    assert "hang" in liveness(Phase.SERVING, snapshot(live=False))[0]
    assert liveness(Phase.STARTING, snapshot(running=False, alive=False)) == []
    assert liveness(Phase.CLOSED, snapshot(running=False, alive=False)) == []


@pytest.mark.parametrize("phase", Phase)
def test_only_a_serving_server_with_a_live_manager_is_ready(phase: Phase) -> None:
    assert (readiness(phase, snapshot()) == []) == (phase is Phase.SERVING)
    assert readiness(phase, None) != []
    for wrong in ({"alive": False}, {"live": False}, {"running": False}, {"draining": True}):
        assert readiness(phase, snapshot(**wrong)) != []


async def test_the_gate_lets_in_while_serving_and_tells_when_all_have_left() -> None:
    gate = Gate()
    with pytest.raises(Unavailable):
        gate.enter()
    for phase in (Phase.SERVING, Phase.LEAVING):
        gate.phase = phase
        gate.enter()
    gate.phase = Phase.CLOSED
    with pytest.raises(Draining):
        gate.enter()
    emptied = asyncio.create_task(gate.empty(60))
    gate.leave()
    await asyncio.sleep(0)
    assert not emptied.done()
    gate.leave()
    assert await emptied


@pytest.mark.looptime
async def test_the_gate_waits_for_those_inside_only_so_long() -> None:
    gate = Gate()
    gate.phase = Phase.SERVING
    gate.enter()
    began = asyncio.get_running_loop().time()
    assert not await gate.empty(300)
    assert asyncio.get_running_loop().time() - began == 300
    gate.leave()
    assert await gate.empty(300)


TIMINGS = st.builds(
    Timing,
    *[st.floats(0, 10)] * 4,
    st.integers(1, 64),
    st.sampled_from(["full", "window"]),
)


@given(st.lists(TIMINGS, min_size=1, max_size=5))
def test_the_times_of_a_bulk_call_are_the_longest_of_its_inputs(timings: list[Timing]) -> None:
    whole = None
    for timing in timings:
        whole = longest(whole, timing)
    for name in ("total", "build", "queue", "compute", "batch_items"):
        assert getattr(whole, name) == max(getattr(timing, name) for timing in timings)
    assert whole.closed_by == timings[-1].closed_by


@given(st.permutations(list(range(30))))
async def test_outcomes_come_out_in_order_and_none_is_lost(order: list[int]) -> None:
    async def arriving() -> AsyncIterator[BatchOutcome]:
        for index in order:
            yield BatchOutcome(index, "error", error=ValueError(str(index)))

    assert [outcome.index async for outcome in in_order(arriving())] == list(range(30))


@pytest.mark.parametrize(("statuses", "whole"), [(["success"], "success"), (["error"], "error"), (["error", "success"], "partial")])
def test_a_bulk_answer_says_whether_all_some_or_none_succeeded(statuses: list[str], whole: str) -> None:
    assert overall([SimpleNamespace(status=status) for status in statuses]) == whole


def test_the_error_of_an_item_is_a_problem_document() -> None:
    item = batch_item(BatchOutcome(3, "error", error=Draining("ending")))
    assert (item.index, item.status, item.error.status, item.error.code) == (3, "error", 503, "draining")


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        ("application/x-ndjson", True),
        ("application/json, Application/X-NDJSON;q=0.5", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, application/x-ndjson;q=0", False),
        ("application/x-ndjson; q=0.000", False),
        ("application/x-ndjson;q=0.001", True),
        ("application/x-ndjson; charset=utf-8 ;Q=0", False),
        ("application/x-ndjson;q=0, application/x-ndjson", True),
    ],
)
def test_ndjson_is_streamed_only_where_it_is_named_and_not_refused(accept: str, found: bool) -> None:
    assert accepts_ndjson(accept) is found


def test_what_is_shown_of_the_configuration_holds_no_secret() -> None:
    spec = DTESNBatcherSpec(
        sidecar=SidecarConfiguration(env=(EnvironmentVariable(name="TOKEN", value="s3cr3t"),)),
        load=LoadConfiguration(
            prometheus=(PrometheusSource(name="p", url="https://host:9090/path?token=s3cr3t", query="up"),),
            engine=EngineSource(url="http://host/?key=s3cr3t"),
        ),
    )
    whole = shown(to_wire(spec))
    assert "s3cr3t" not in str(whole)
    assert whole["load"]["prometheus"][0]["url"] == "https://host:9090/path"
    assert set(whole) == {"dynamicBatching", "model", "backend", "batching", "load", "sidecar"}
