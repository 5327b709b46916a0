"""Choosing, coding and calibrating: what a fit decides by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout.fitting import calibrated, class_targets, fit_readout, make_folds, number_targets
from dtesn_sidecar.model.readout.scoring import confusion, log_loss, scores_of
from dtesn_sidecar.model.readout.store import dump
from dtesn_sidecar.model.readout.value import softmax

MODEL = ModelConfiguration(membrane_depth=1, esn_size=32)


def features(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 64)).astype(np.float32)


@given(st.lists(st.sampled_from("abc"), min_size=12, max_size=60), st.integers(2, 4))
def test_folds_part_the_samples_and_give_each_its_share_of_every_class(labels: list[str], count: int) -> None:
    sizes = {label: labels.count(label) for label in set(labels)}
    if min(sizes.values()) < count:
        with pytest.raises(InvalidInput, match=f"at least {count} samples of each class"):
            make_folds(labels, count)
        return
    folds = make_folds(labels, count)
    assert folds is not None
    assert sorted(at for fold in folds for at in fold) == list(range(len(labels)))
    for label, size in sizes.items():
        shares = [sum(labels[at] == label for at in fold) for fold in folds]
        assert size // count <= min(shares)
        assert max(shares) <= -(-size // count)


@pytest.mark.parametrize(
    ("groups", "folds", "words"),
    [
        ([0, 0], None, "2 samples are too few for leave-one-out"),
        ([0] * 4, 5, "4 samples are too few for 5 folds"),
        ([0] * 9, 1, "folds is 1, expected 2 or more"),
        (["a"] * 8 + ["b"], None, "'b' has 1"),
        (["a"] * 8 + ["b"] * 4, 5, "'b' has 4"),
    ],
)
def test_too_few_samples_are_named_with_what_is_needed(groups: list[object], folds: int | None, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_folds(groups, folds)


def test_one_class_is_none() -> None:
    with pytest.raises(InvalidInput, match="only the class 'a'"):
        class_targets(["a", "a"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(InvalidInput, match=f"the target of sample 2 is {bad}"):
        number_targets(np.array([1.0, bad, 3.0]))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.floats(0.1, 5))
def test_the_sharpness_has_the_least_smoothed_log_loss(seed: int, k: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    classes = random.integers(0, k, 50)
    values = (classes[:, None] == np.arange(k)) + noise * random.normal(size=(50, k))
    smooth = np.full((50, k), 1 / (50 + k))
    smooth[np.arange(50), classes] += 1 - k / (50 + k)

    def loss(sharpness: float) -> float:
        scaled = sharpness * values
        return float((smooth * (np.logaddexp.reduce(scaled, axis=1, keepdims=True) - scaled)).sum())

    best = loss(calibrated(values, classes))
    assert all(best <= loss(sharpness) + 1e-9 for sharpness in np.geomspace(1e-3, 1e2, 300))


def test_classes_that_are_held_apart_without_an_error_keep_a_finite_sharpness() -> None:
    assert 1 < calibrated(np.array([[1.0, -1.0], [-1.0, 1.0]] * 50), np.array([0, 1] * 50)) < 10


def test_a_fit_is_the_same_every_time() -> None:
    labels = class_targets(["abc"[n % 3] for n in range(40)])
    assert len({dump(fit_readout(MODEL, features(40), labels, folds=folds).readout) for folds in (4, 4, 4)}) == 1


def test_the_least_held_out_error_is_chosen_and_reported() -> None:
    x = features(60)
    y = x @ np.random.default_rng(1).normal(size=64) + 3 * np.random.default_rng(2).normal(size=60)
    fit = fit_readout(MODEL, x, number_targets(y), alphas=[1e-4, 10.0, 1.0, 1e4])
    assert [trial.alpha for trial in fit.trials] == [1e-4, 1.0, 10.0, 1e4]
    assert fit.alpha == min(fit.trials, key=lambda trial: trial.error).alpha
    assert fit.error == pytest.approx(((fit.held_out[:, 0] - y) ** 2).mean() / y.var())
    assert fit.scores["r2"] == pytest.approx(1 - fit.error)
    assert not fit.at_edge
    assert fit_readout(MODEL, x, number_targets(y), alphas=[1e3, 1e4, 1e5]).at_edge


def test_targets_of_different_scale_count_alike() -> None:
    x = features(50)
    one, two = x @ np.random.default_rng(1).normal(size=(2, 64)).T @ np.eye(2)[:, 0], np.random.default_rng(3).normal(size=50)
    small = fit_readout(MODEL, x, number_targets(np.column_stack([one, two]))).alpha
    assert fit_readout(MODEL, x, number_targets(np.column_stack([1000 * one, two / 1000]))).alpha == small


@pytest.mark.parametrize("alphas", [[], [0.0], [-1.0], [np.nan]])
def test_a_regularisation_that_is_none_is_refused(alphas: list[float]) -> None:
    with pytest.raises(InvalidInput, match="alphas is"):
        fit_readout(MODEL, features(5), number_targets(np.arange(5.0)), alphas=alphas)


def test_scores_are_what_they_say() -> None:
    targets = class_targets(["a", "a", "a", "b"])
    fit = fit_readout(MODEL, features(8), class_targets(["a", "b"] * 4))
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = scores_of(fit.readout, values, targets.values)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["log_loss"] == pytest.approx(log_loss(fit.readout.scores(values), targets.classes))
    assert confusion(("a", "b"), values, targets.values).tolist() == [[2, 1], [0, 1]]


@given(st.integers(1, 20), st.floats(0.01, 100))
def test_scores_sum_to_one_and_do_not_overflow(k: int, scale: float) -> None:
    values = scale * 1e3 * np.random.default_rng(k).normal(size=(3, k))
    assert np.isfinite(softmax(values)).all()
    np.testing.assert_allclose(softmax(values).sum(axis=-1), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_readout_gives_what_the_fit_said(dtype: type) -> None:
    x: np.ndarray = features(30).astype(dtype)
    y = np.random.default_rng(4).normal(size=(30, 3)) * 100
    readout = fit_readout(MODEL, x, number_targets(y), alphas=[1e-6]).readout
    told = np.array([readout.layer.apply(row.reshape(1, 2, 32)) for row in x])
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, y, rtol=1e-3, atol=1e-2)  # 64 features interpolate 30 samples
