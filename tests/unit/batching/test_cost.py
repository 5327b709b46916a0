"""The cost model: what it learns from runs, and what a stall of the machine must not teach it."""

from __future__ import annotations

import math
import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from dtesn_sidecar.batching.cost import CostModels
from dtesn_sidecar.batching.fit import BELIEVED, FORGETTING, OUTLIER, Fit
from dtesn_sidecar.batching.protocols import Work


@settings(max_examples=30)
@given(st.floats(1e-6, 1e-2), st.floats(1e-7, 1e-3), st.integers(0, 1000))
def test_the_fit_recovers_what_made_the_samples(a: Any, b: Any, seed: Any) -> None:
    fit, rng = Fit(), random.Random(seed)
    for step in range(200):
        levels = rng.randint(1, 100)
        nodes = levels * rng.randint(1, 32)
        fit.learn(levels, nodes, a * levels + b * nodes, float(step))
    for levels, nodes in ((1, 1), (50, 50), (50, 1000)):
        assert fit.predict(levels, nodes) == pytest.approx(a * levels + b * nodes, rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 1000), st.floats(1e-6, 10)), min_size=1, max_size=50))
def test_the_fit_is_never_negative(samples: Any) -> None:
    fit = Fit()
    for levels, nodes, seconds in samples:
        fit.learn(levels, nodes, seconds, 0.0)
    assert fit.a >= 0
    assert fit.b >= 0
    assert math.isfinite(fit.predict(10, 10))


@given(st.floats(1e-6, 1e-2), st.floats(1e-7, 1e-3), st.integers(1, 500), st.integers(1, 500), st.floats(1e-4, 10.0))
def test_a_first_sample_scales_the_prior_and_keeps_its_ratio(a: Any, b: Any, levels: Any, more: Any, seconds: Any) -> None:
    fit = Fit(a, b)
    fit.learn(levels, levels + more, seconds, 0.0)
    assert fit.predict(levels, levels + more) == pytest.approx(seconds, rel=1e-6)
    assert fit.a * b == pytest.approx(fit.b * a, rel=1e-6)


def test_the_fit_forgets_the_machine_it_was_on_before() -> None:
    fit = Fit()
    for speed in (1.0, 3.0):
        for step in range(300):
            levels, nodes = 1 + step % 7, 10 + step % 50
            fit.learn(levels, nodes, speed * (0.001 * levels + 0.0001 * nodes), 0.0)
    assert fit.predict(5, 30) == pytest.approx(3 * (0.005 + 0.003), rel=0.05)


def test_a_mixed_batch_is_predicted_and_learnt_by_every_model_in_it() -> None:
    cost = CostModels()
    shallow, deep = Work(nodes=10, levels=10, model=1), Work(nodes=10, levels=10, model=2)
    for step in range(50):
        cost.learn([shallow] * (1 + step % 3), 0.010, 0.0)
        cost.learn([deep] * (1 + step % 3), 0.020, 0.0)
    before = cost.predict([shallow, deep])
    for _ in range(100):
        cost.learn([shallow, deep], 0.080, 0.0)
    after = cost.predict([shallow, deep])
    assert before is not None
    assert after == pytest.approx(0.080, rel=0.1)


def test_nothing_measured_predicts_nothing() -> None:
    assert CostModels().predict([Work()]) is None


@given(st.integers(1, 60), st.floats(1.0, 1e6))
def test_one_stall_moves_the_fit_by_its_share_of_the_samples_and_not_by_its_length(before: int, stall: float) -> None:
    fit = Fit()
    for _ in range(before):
        fit.learn(10, 10, 0.010, 0.0)
    fit.learn(10, 10, 0.010 + stall, 0.0)
    share = (1.0 - FORGETTING) / (1.0 - FORGETTING ** (before + 1))
    assert fit.predict(10, 10) == pytest.approx(0.010 * (1.0 + (OUTLIER - 1.0) * share), rel=0.03)


@given(st.integers(1, 8), st.floats(1.0, 1e6))
def test_what_was_learnt_while_the_machine_stalled_is_forgotten_with_the_first_run_that_it_lets_pass(stalled: int, stall: float) -> None:
    fit = Fit()
    for _ in range(stalled):
        fit.learn(10, 10, stall, 0.0)
    fit.learn(10, 10, 0.010, 0.0)
    assert fit.predict(10, 10) == pytest.approx(0.010)
    assert fit.samples == stalled + 1


def test_a_device_that_is_slower_for_good_is_believed_within_a_few_runs() -> None:
    fit = Fit()
    for _ in range(60):
        fit.learn(10, 10, 0.010, 0.0)
    for _ in range(BELIEVED):
        assert fit.predict(10, 10) < 0.015
        fit.learn(10, 10, 1.0, 0.0)
    assert fit.predict(10, 10) == pytest.approx(1.0)


@pytest.mark.parametrize("stall", [1.0, 3600.0])
def test_a_model_first_run_while_the_machine_stalled_is_not_taken_to_be_that_slow(stall: float) -> None:
    cost = CostModels()
    known, new = (Work(nodes=50, levels=50, model=depth, operations=float(depth)) for depth in (1, 2))
    for _ in range(10):
        cost.learn([known], 0.005, 0.0)
    cost.learn([new], 0.010 + stall, 0.0)
    predicted = cost.predict([new])
    assert predicted is not None
    assert predicted <= OUTLIER * 0.010 * 1.001
