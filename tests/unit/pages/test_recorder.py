"""What the live page shows: differences of the counters, and None for what was not measured."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.pages.page_support import World

from dtesn_api.wire import LiveEvent
from dtesn_sidecar.health import Phase
from dtesn_sidecar.pages.recorder import KEPT_POINTS, Recorder


@pytest.fixture
def world() -> World:
    return World()


def latest(recorder: Recorder) -> LiveEvent:
    return recorder.event(recorder.taken - 1)


def test_rates_are_of_the_last_ten_seconds_and_shares_of_the_last_minute(world: World) -> None:
    recorder = Recorder(world.sources, "me")
    for second in range(101):
        recorder.take(second, 1000.0 + second)
        if second < 95:  # in each second until the 95th: 4 answers and a failure, a batch of 3 and one of 5
            for outcome in ("ok",) * 4 + ("expired",):
                world.request(outcome)
            world.batch(3, "full")
            world.batch(5, "window")
    shown = latest(recorder)
    (point,) = shown.points
    assert point.time == 1100.0
    assert point.answered_per_second == 2.0  # of the 10 seconds until now, 5 had 4
    assert point.failed_per_second == 0.5
    assert point.batch_size == 4.0
    assert shown.recent.seconds == 60.0
    assert shown.recent.requests == {"ok": 4 * 55, "expired": 55}
    assert shown.recent.closed_by == {"full": 55, "window": 55}


def test_percentiles_are_of_the_last_minute_alone(world: World) -> None:
    recorder = Recorder(world.sources, "me")
    recorder.take(0.0, 0.0)
    for _ in range(100):
        world.request(seconds=50.0)
    recorder.take(1.0, 1.0)
    assert latest(recorder).recent.total.p50_ms > 32_000
    recorder.take(30.0, 30.0)
    for _ in range(100):
        world.request(seconds=0.02)
    recorder.take(70.0, 70.0)
    assert 18 < latest(recorder).recent.total.p99_ms <= 32
    assert 5.6 < latest(recorder).recent.queue.p50_ms <= 10
    recorder.take(135.0, 135.0)
    nothing = latest(recorder)
    assert nothing.recent.total.p50_ms is None
    assert nothing.recent.requests == {}
    assert nothing.points[0].p95_ms is None
    assert nothing.points[0].batch_size is None
    assert nothing.points[0].answered_per_second == 0.0  # this one was measured


def test_before_the_manager_has_started_there_are_no_figures_but_the_phase_and_its_reason(world: World) -> None:
    world.snapshot, world.gate.phase = None, Phase.STARTING
    recorder = Recorder(world.sources, "me")
    with pytest.raises(LookupError):
        recorder.event(0)
    recorder.take(0.0, 0.0)
    shown = latest(recorder)
    assert (shown.metrics, shown.manager, shown.recent) == (None, None, None)
    assert shown.phase == "starting"
    assert shown.reasons == ["the server is starting: the model and the workers are not ready"]
    assert (shown.points[0].answered_per_second, shown.points[0].limit, shown.points[0].load) == (None, None, None)


def test_an_event_has_the_points_since_and_at_most_those_that_are_kept(world: World) -> None:
    recorder = Recorder(world.sources, "me")
    for second in range(KEPT_POINTS + 50):
        recorder.take(second, second)
    end = KEPT_POINTS + 49
    assert [point.time for point in recorder.event(recorder.taken).points] == []
    assert [point.time for point in recorder.event(recorder.taken - 3).points] == [end - 2, end - 1, end]
    assert [point.time for point in recorder.event(0).points] == list(range(50, KEPT_POINTS + 50))


def test_the_managers_figures_are_those_of_its_snapshot(world: World) -> None:
    world.set(throughput_improvement=12.5, load=0.4567, baseline_age_seconds=3.0)
    recorder = Recorder(world.sources, "me")
    recorder.take(0.0, 0.0)
    manager = latest(recorder).manager
    assert (manager.breaker, manager.pending_by_priority, manager.target_batch_size) == ("half_open", [0, 2, 1], 6)
    assert (manager.load, manager.baseline_age_seconds, manager.predicted_wait_seconds) == (0.4567, 3.0, None)


def test_an_event_is_what_the_wire_says(world: World) -> None:
    recorder = Recorder(world.sources, "me")
    for second in range(3):
        recorder.take(second, second)
        world.request()
    sent = recorder.event(0)
    assert msgspec.json.decode(msgspec.json.encode(sent), type=LiveEvent) == sent
