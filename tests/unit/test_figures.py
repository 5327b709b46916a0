"""What each figure of `GET /dtesn/batch_metrics` means, from a real manager over a device in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec import UNSET, json

from dtesn_api.spec import BatchConfiguration
from dtesn_api.wire import BatchMetricsResponse, ProviderLoad
from dtesn_sidecar.batching.manager import DynamicBatchManager
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.figures import LoadSources, batch_metrics, performance_metrics
from dtesn_sidecar.load.tracker import ServerLoadTracker

pytestmark = pytest.mark.looptime
FOUR = BatchConfiguration(
    strategy="fixed",
    min_batch_size=4,
    target_batch_size=4,
    max_batch_size=8,
    max_batch_wait_ms=2000,
    enable_adaptive_sizing=False,
    performance_window_size=2,
)


async def device(items: list[object]) -> Sequence[object]:
    """A second per batch; what is negative fails alone."""
    await asyncio.sleep(1.0)
    return [InvalidInput("negative") if isinstance(item, int) and item < 0 else item for item in items]


def shown(manager: DynamicBatchManager, load: LoadSources | None = None) -> BatchMetricsResponse:
    """The body as a client reads it."""
    body = batch_metrics(manager.snapshot(), {} if load is None else load.by_name(), enabled=True)
    return json.decode(json.encode(body), type=BatchMetricsResponse)


async def test_what_is_not_measured_yet_is_null_and_never_a_made_up_figure() -> None:
    async with DynamicBatchManager(FOUR, process=device) as manager:
        figures = shown(manager).metrics
    assert (figures.requests_processed, figures.circuit_breaker_open) == (0, False)
    measured = {name for name in figures.__struct_fields__ if getattr(figures, name) is not None}
    assert measured == {"requests_processed", "circuit_breaker_open"}


async def test_every_figure_after_a_batch_of_four_that_took_a_second() -> None:
    async with DynamicBatchManager(FOUR, lambda: 0.25, process=device) as manager:
        first = asyncio.gather(*(manager.submit(number) for number in range(3)))
        await asyncio.sleep(0.4)
        last = asyncio.ensure_future(manager.submit(-1))  # the fourth closes the batch, after 0.4 s; its input is at fault
        await first
        with pytest.raises(InvalidInput):
            await last
        await asyncio.sleep(0.6)  # two seconds after the first arrival
        body = shown(manager)
    figures = body.metrics
    assert (body.batching_enabled, body.current_batch_size, body.pending_requests) == (True, 4, 0)
    assert figures.requests_processed == 3  # what was answered: since the start, and not only in the window
    assert figures.avg_batch_size == 4.0
    assert figures.batch_utilization == 1.0
    assert (figures.success_rate, figures.failure_rate) == (0.75, 0.25)
    assert figures.avg_processing_time_ms == pytest.approx(1000.0)
    assert figures.avg_batch_wait_time == pytest.approx(300.0)  # three waited 0.4 s, one not at all
    assert figures.requests_per_second == pytest.approx(3 / 1.6)  # since the window's first batch began
    assert figures.avg_server_load == 0.25
    assert figures.throughput_improvement is None  # nothing was run alone: there is nothing to compare with


async def test_averages_run_over_the_last_batches_alone() -> None:
    async with DynamicBatchManager(FOUR, process=device) as manager:
        await asyncio.gather(*(manager.submit(number) for number in range(4)))
        for _ in range(2):  # each waits for the whole window and leaves alone
            await manager.submit(0)
        await asyncio.sleep(0)
        figures = shown(manager).metrics
    assert figures.avg_batch_size == 1.0
    assert figures.batch_utilization == 0.25
    assert figures.avg_batch_wait_time == pytest.approx(2000.0)
    assert figures.requests_processed == 6


async def test_pending_is_what_is_queued_and_active_what_is_unanswered() -> None:
    async with DynamicBatchManager(FOUR, process=device) as manager:
        calls = asyncio.gather(*(manager.submit(number) for number in range(7)))
        await asyncio.sleep(0.1)
        body = shown(manager)
        beside = performance_metrics(manager.snapshot(), enabled=True)
        await calls
        await asyncio.sleep(0)
        after = shown(manager)
    assert (body.pending_requests, body.server_load["active_requests"]) == (3, 7)  # four compute
    assert (beside.pending_requests, beside.current_batch_size) == (3, 4)
    assert (after.pending_requests, after.server_load["active_requests"]) == (0, 0)


async def test_every_load_source_is_shown_with_its_value_and_age_or_with_the_reason_why_it_has_none() -> None:
    async def broken() -> float:
        raise RuntimeError("no driver")

    async def steady() -> float:
        return 0.4

    loop = asyncio.get_running_loop()
    tracker = ServerLoadTracker(clock=loop.time)
    tracker.add_load_provider(steady, weight=2.0, name="queue", interval=10.0)
    tracker.add_load_provider(broken, name="gpu", interval=10.0)
    async with tracker, DynamicBatchManager(FOUR, tracker.get_current_load, process=device) as manager:
        await asyncio.sleep(0.5)
        load = shown(manager, LoadSources(tracker)).server_load
    assert load["queue"] == ProviderLoad(value=0.4, age_seconds=0.5, weight=2.0)
    assert load["gpu"] == ProviderLoad(value=None, weight=1.0, reason="RuntimeError: no driver")
    assert load["gpu"].age_seconds is UNSET
    assert list(load) == ["active_requests", "queue", "gpu"]


async def test_the_breaker_is_open_while_it_is_open() -> None:
    async def failing(_items: list[object]) -> Sequence[object]:
        raise RuntimeError("the device is gone")

    config = BatchConfiguration(failure_threshold=1, max_batch_wait_ms=0, min_batch_wait_ms=0, circuit_breaker_timeout=5.0)
    async with DynamicBatchManager(config, process=failing) as manager:
        with pytest.raises(Exception, match="the device is gone"):
            await manager.submit(1)
        await asyncio.sleep(0.1)
        during = shown(manager).metrics
        await asyncio.sleep(6.0)
        after = shown(manager).metrics
    assert (during.circuit_breaker_open, during.success_rate, during.failure_rate) == (True, 0.0, 1.0)
    assert not after.circuit_breaker_open  # half-open: the next batch decides
