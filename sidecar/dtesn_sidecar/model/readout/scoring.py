"""How good predictions are, in the few figures that everybody knows. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dtesn_sidecar.model.readout.value import Readout

Float64: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = dict[str, float]
"""Of a classifier `accuracy`, `balanced_accuracy` and `log_loss` (nats); of a regression `mae`, `rmse` and `r2`, over all outputs."""


def scores_of(readout: Readout, values: NDArray[Any], targets: Float64) -> Scores:
    """The scores of outputs [n, K] against targets [n, K], coded as `fitting.Targets` has them."""
    if readout.labels is None:
        return regression_scores(np.asarray(values, dtype=np.float64), targets)
    classes = np.argmax(targets, axis=1)
    hits = np.argmax(values, axis=1) == classes
    recalls = [float(hits[classes == number].mean()) for number in np.unique(classes)]
    return {
        "accuracy": float(hits.mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "log_loss": log_loss(readout.scores(values), classes),
    }


def regression_scores(values: Float64, targets: Float64) -> Scores:
    """Mean absolute error, root mean square error and coefficient of determination (the mean over outputs; 0 for a constant target)."""
    errors = values - targets
    variances = targets.var(axis=0)
    explained = np.where(variances > 0, 1.0 - (errors**2).mean(axis=0) / np.where(variances > 0, variances, 1.0), 0.0)
    return {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean())), "r2": float(explained.mean())}


def log_loss(scores: Float64, classes: NDArray[np.intp]) -> float:
    """Mean of -log of the score of the right class, in nats."""
    right = scores[np.arange(len(classes)), classes]
    return float(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean())


def confusion(labels: tuple[str, ...], values: NDArray[Any], targets: Float64) -> NDArray[np.int64]:
    """Counts [right label, predicted label]."""
    table = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(table, (np.argmax(targets, axis=1), np.argmax(values, axis=1)), 1)
    return table
