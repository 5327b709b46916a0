"""Which attempt at a stretch of load counts: chosen by what the generator and others did, never by what the server did."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bench import neighbours, section
from bench.drive import Load
from bench.plans import Outcome, Plan
from rich.console import Console

PLAN = Plan(port=1, seconds=1.0)


def outcome(p99_ms: float, slip_ms: float = 0.1) -> Outcome:
    nothing: dict[str, Any] = dict.fromkeys(("hung", "broken", "wrong", "failed", "no_retry_after", "checked", "worst", "cpu"), 0)
    return Outcome(
        sent=1,
        statuses={},
        rate=1.0,
        in_time=1.0,
        p50_ms=1.0,
        p99_ms=p99_ms,
        mean_ms=1.0,
        latencies_ms=[],
        slip_p99_ms=slip_ms,
        timeline=[],
        **nothing,
    )


class Outcomes:
    """A load generator whose outcomes are known beforehand."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.left: Iterator[Outcome] = iter(outcomes)

    async def run(self, plan: Plan) -> Outcome:
        return next(self.left)


def bench(monkeypatch: pytest.MonkeyPatch, shares: list[float], *outcomes: Outcome) -> section.Bench:
    left = iter(shares)

    class Known:
        def share(self) -> float:
            return next(left)

    monkeypatch.setattr(section, "Neighbours", Known)
    return section.Bench(cast("Load", Outcomes(*outcomes)), Console(), False, argparse.Namespace())


async def test_an_undisturbed_stretch_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = bench(monkeypatch, [0.01], outcome(900.0))
    assert (await measured.run(PLAN)).p99_ms == 900.0
    assert measured.void == []


async def test_a_stretch_that_others_disturbed_is_measured_again_and_the_first_quiet_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = bench(monkeypatch, [0.3, 0.2, 0.01], outcome(10.0), outcome(20.0), outcome(30.0))
    assert (await measured.run(PLAN)).p99_ms == 30.0
    assert measured.others == [0.01]


async def test_where_it_never_gets_quiet_the_least_disturbed_counts_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = bench(monkeypatch, [0.3, 0.1, 0.2, 0.4], *(outcome(p99) for p99 in (10.0, 20.0, 5.0, 1.0)))
    assert (await measured.run(PLAN)).p99_ms == 20.0
    assert "others: 10.0 % of the machine" in measured.generator()


async def test_a_late_generator_is_worse_than_a_neighbour_and_voids_what_stays_late(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = bench(monkeypatch, [0.0, 0.2, 0.0, 0.0], outcome(10.0, 9.0), outcome(20.0), outcome(30.0, 9.0), outcome(40.0, 9.0))
    assert (await measured.run(PLAN)).p99_ms == 20.0
    assert measured.void == []
    late = bench(monkeypatch, [0.0], outcome(10.0, 9.0))
    await late.run(PLAN, tries=1)
    assert late.void


def test_what_is_taken_by_this_process_and_below_it_is_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 110.0])
    busy, own = iter([50.0, 58.0]), iter([20.0, 26.0])
    monkeypatch.setattr(neighbours, "time", SimpleNamespace(monotonic=lambda: next(now)))  # not of everybody's module
    monkeypatch.setattr(neighbours, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(neighbours, "own_seconds", lambda: next(own))
    monkeypatch.setattr(neighbours, "os", SimpleNamespace(sched_getaffinity=lambda _: {0, 1}))
    assert neighbours.Neighbours().share() == pytest.approx(2.0 / 20.0)


def test_the_machine_is_at_least_as_busy_as_this_process() -> None:
    assert neighbours.busy_seconds() > 0
    assert neighbours.own_seconds() > 0
