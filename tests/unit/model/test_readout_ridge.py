"""The mathematics of readouts against scikit-learn and against fits that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict

from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout import ridge
from dtesn_sidecar.model.readout.ridge import decompose, held_out, solve

Problem = tuple[NDArray[np.float64], NDArray[np.float64], float]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Features, targets and alpha: more samples than features or fewer, and features that repeat."""
    n, width, outputs = draw(st.integers(6, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = random.normal(size=(n, width)) + 5.0
    if width > 3 and draw(st.booleans()):
        features[:, -1] = features[:, 0]
    if draw(st.booleans()):
        features[n // 2] = features[0]
    return features, random.normal(size=(n, outputs)) * 10 + 100, draw(st.sampled_from([1e-3, 0.1, 1.0, 100.0]))


@given(problems())
def test_weights_and_intercept_are_those_of_scikit_learn(problem: Problem) -> None:
    features, targets, alpha = problem
    weights, intercept = solve(decompose(features), targets, alpha)
    oracle = Ridge(alpha=alpha, solver="svd").fit(features, targets)
    scale = np.abs(oracle.coef_).max()
    np.testing.assert_allclose(weights, np.atleast_2d(oracle.coef_), rtol=1e-8, atol=1e-8 * scale)
    np.testing.assert_allclose(features @ weights.T + intercept, oracle.predict(features).reshape(targets.shape), rtol=1e-8)


@settings(max_examples=25)
@given(problems())
def test_leave_one_out_is_what_repeated_fits_say(problem: Problem) -> None:
    features, targets, alpha = problem
    told = held_out(decompose(features), targets, [alpha], None)[0]
    expected = cross_val_predict(Ridge(alpha=alpha, solver="svd"), features, targets, cv=LeaveOneOut())
    np.testing.assert_allclose(told, expected.reshape(targets.shape), rtol=1e-8)


@settings(max_examples=40)
@given(problems(), st.integers(2, 5))
def test_any_folds_are_what_repeated_fits_say(problem: Problem, count: int) -> None:
    features, targets, alpha = problem
    member = np.arange(len(features)) % count
    told = held_out(decompose(features), targets, [alpha], [np.flatnonzero(member == fold) for fold in range(count)])[0]
    expected = cross_val_predict(Ridge(alpha=alpha, solver="svd"), features, targets, cv=PredefinedSplit(member))
    np.testing.assert_allclose(told, expected.reshape(targets.shape), rtol=1e-8)


@given(problems())
def test_held_out_answers_survive_a_regularisation_that_interpolates(problem: Problem) -> None:
    features, targets, _ = problem
    wide = np.random.default_rng(1).normal(size=(len(features), 60))
    told = held_out(decompose(wide), targets, [1e-12], None)[0]
    for sample in range(3):
        others = np.arange(len(wide)) != sample
        mean, level = wide[others].mean(axis=0), targets[others].mean(axis=0)
        # Centring leaves a singular value of 0, which rounding takes to either side of pinv's own bound.
        expected = level + (wide[sample] - mean) @ np.linalg.pinv(wide[others] - mean, rcond=1e-10) @ (targets[others] - level)
        np.testing.assert_allclose(told[sample], expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(50, 20), (20, 50)])
def test_classes_coded_by_one_and_minus_one_are_scikit_learns_classifier(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    features, classes = random.normal(size=shape), random.integers(0, 3, shape[0])
    coded = np.where(classes[:, None] == np.arange(3), 1.0, -1.0)
    weights, intercept = solve(decompose(features), coded, 0.5)
    oracle = RidgeClassifier(alpha=0.5).fit(features, classes)
    np.testing.assert_allclose(features @ weights.T + intercept, oracle.decision_function(features), atol=1e-8)


@pytest.mark.parametrize("shape", [(23, 7), (23, 60)])
@pytest.mark.parametrize("folds", [None, 3])
def test_blocks_of_rows_change_nothing(shape: tuple[int, int], folds: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features, targets = random.normal(size=shape), random.normal(size=(23, 2))
    parts = None if folds is None else [np.arange(fold, 23, folds) for fold in range(folds)]

    def answers() -> list[NDArray[np.float64]]:
        spectrum = decompose(features)
        return [*solve(spectrum, targets, 0.1), held_out(spectrum, targets, [0.1, 10.0], parts)]

    whole = answers()
    monkeypatch.setattr(ridge, "_BLOCK", 5)
    for one, other in zip(whole, answers(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_features_may_lie_in_a_file(tmp_path) -> None:
    features = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=features.shape)
    mapped[:] = features
    for one, other in zip(*(solve(decompose(array), np.eye(12, 2), 0.1) for array in (features, mapped)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_no_memory_would_hold_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "MAX_RANK", 9)
    decompose(np.ones((100, 9)))
    with pytest.raises(InvalidInput, match="11 samples of 10 features"):
        decompose(np.ones((11, 10)))


@settings(max_examples=20)
@given(st.integers(3, 8))
def test_features_that_do_not_differ_predict_the_mean(n: int) -> None:
    targets = np.arange(float(n))[:, None]
    weights, intercept = solve(decompose(np.ones((n, 4))), targets, 1e-8)
    np.testing.assert_allclose(weights, 0, atol=1e-12)
    np.testing.assert_allclose(intercept, targets.mean())
