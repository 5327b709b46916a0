"""What the last batches achieved: sums over a window, and the improvement over a measured unbatched baseline."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dtesn_sidecar.batching.performance import BatchRecord, WindowPerformance
from dtesn_sidecar.batching.protocols import Work

seconds = st.floats(1e-4, 100.0)


def record(
    items: int = 4, places: int = 8, seconds: float = 0.1, nodes: int = 4, complete: bool = True, withheld: float = 0.0
) -> BatchRecord:
    return BatchRecord(
        finished_at=1.0,
        seconds=seconds,
        items=items,
        places=places,
        limit=8,
        max_batch_size=16,
        nodes=nodes,
        works=[Work()] * items,
        succeeded=items,
        failed=0,
        wait_seconds=0.4,
        device_seconds=seconds,
        withheld_seconds=withheld,
        complete=complete,
        load=0.5,
    )


def test_utilisation_is_items_over_places_and_direct_runs_do_not_count() -> None:
    performance = WindowPerformance(10)
    for batch in (record(4, 8), record(8, 8), record(1, 0)):
        performance.record(batch)
    assert performance.figures(2.0).batch_utilization == pytest.approx(12 / 16)
    assert performance.figures(2.0).batch_fill == pytest.approx(12 / 32)


@given(st.lists(st.tuples(st.integers(1, 32), st.integers(0, 32), st.floats(1e-4, 10), st.booleans()), max_size=60), st.integers(1, 20))
def test_the_figures_are_those_of_the_last_batches_alone(batches: Any, window: Any) -> None:
    """However many came before: as if only the last `window` had ever been recorded."""
    records = [
        dataclasses.replace(record(items, places, seconds, complete=known), load=0.5 if known else None, wait_seconds=seconds)
        for items, places, seconds, known in batches
    ]
    long, short = WindowPerformance(window), WindowPerformance(window)
    long.baseline(Work(), 1.0, 0.0)
    short.baseline(Work(), 1.0, 0.0)
    for each in records:
        long.record(each)
    for each in records[-window:]:
        short.record(each)
    found, expected = long.figures(100.0), short.figures(100.0)
    for field in dataclasses.fields(found):
        if field.name != "device_efficiency":  # whose best rate is remembered for longer
            value = getattr(expected, field.name)
            assert getattr(found, field.name) == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9))


def improvement(samples: Any, batches: Any, window: int = 100) -> float | None:
    """Of batches (items, seconds, withheld) against samples (nodes, seconds)."""
    performance = WindowPerformance(window)
    for nodes, took in samples:
        performance.baseline(Work(nodes=nodes, levels=nodes), took, 0.0)
    for items, took, withheld in batches:
        works = [Work(nodes=10, levels=10)] * items
        performance.record(dataclasses.replace(record(items, 8, took, withheld=withheld), works=works))
    return performance.figures(1.0).throughput_improvement


def test_without_a_baseline_there_is_no_improvement() -> None:
    assert improvement([], [(4, 0.1, 0.0)]) is None


@given(st.lists(st.tuples(st.integers(1, 300), seconds), max_size=20), st.lists(seconds, min_size=1, max_size=60), st.integers(1, 20))
def test_batches_of_one_improve_nothing_whatever_they_and_the_baseline_took(samples: Any, took: Any, window: Any) -> None:
    assert improvement(samples, [(1, each, 0.0) for each in took], window) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 300), seconds), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(1, 32), seconds, st.floats(0.0, 10.0)), min_size=1, max_size=20),
    st.integers(-4, 4).map(lambda power: 2.0**power),  # exact in floats: where two times are equal, they stay equal
)
def test_a_machine_that_is_slower_at_everything_shows_the_same_improvement(samples: Any, batches: Any, factor: Any) -> None:
    slower = improvement([(n, took * factor) for n, took in samples], [(n, took * factor, idle * factor) for n, took, idle in batches])
    ratio = 1.0 + (improvement(samples, batches) or 0.0) / 100.0
    assert 1.0 + (slower or 0.0) / 100.0 == pytest.approx(ratio, rel=1e-9)


def test_improvement_is_the_time_alone_over_the_time_together() -> None:
    samples = [(10, 0.05)] * 20
    assert improvement(samples, [(4, 0.1, 0.0)]) == pytest.approx(100 * (4 * 0.05 / 0.1 - 1))


def test_what_was_withheld_from_idle_workers_counts_against_batching() -> None:
    samples = [(10, 0.05)] * 20
    assert improvement(samples, [(2, 0.06, 0.06)]) == pytest.approx(100 * (2 * 0.05 / 0.12 - 1))
    assert improvement(samples, [(1, 0.05, 0.05)]) == pytest.approx(-50.0)


def test_incomplete_batches_and_direct_runs_are_no_batches_to_compare() -> None:
    performance = WindowPerformance(10)
    for _ in range(20):
        performance.baseline(Work(), 0.05, 0.0)
    performance.record(record(1, 0, seconds=7.0))
    assert performance.figures(2.0).throughput_improvement is None
    performance.record(record(4, 8, seconds=0.1))
    performance.record(record(4, 8, seconds=0.1, complete=False))
    performance.record(record(1, 0, seconds=7.0))
    figures = performance.figures(2.0)
    assert figures.throughput_improvement == pytest.approx(100 * (4 * 0.05 / 0.1 - 1))
    assert (figures.baseline_samples, figures.baseline_age) == (20, 2.0)
