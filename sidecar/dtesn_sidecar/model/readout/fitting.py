"""Fitting a readout to features and targets: coded classes, the choice of the regularisation, calibrated scores.

The mathematics of ridge regression is in `ridge`; where features and targets come from is the caller's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout.ridge import decompose, held_out, solve
from dtesn_sidecar.model.readout.scoring import Scores, scores_of
from dtesn_sidecar.model.readout.value import OutputLayer, Readout

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration

ALPHAS: Final[tuple[float, ...]] = tuple(float(10.0 ** (half / 2)) for half in range(-16, 9))
"""Regularisations to choose from: 1e-8 to 1e4, two in a decade."""

_SHARPEST: Final = 1e3
_HALVINGS: Final = 60

Float64: TypeAlias = NDArray[np.float64]
Folds: TypeAlias = Sequence[NDArray[np.intp]] | None


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is to be predicted: `values` float64 [n, K]; of a classification +1 in the column of the sample's label, -1 in the others."""

    values: Float64
    labels: tuple[str, ...] | None = None

    @property
    def classes(self) -> NDArray[np.intp]:
        """The number of each sample's label."""
        numbers: NDArray[np.intp] = np.argmax(self.values, axis=1)
        return numbers


@dataclass(frozen=True, slots=True)
class Trial:
    """One regularisation: its held-out squared error, of a regression in units of each target's variance."""

    alpha: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted readout, how every regularisation did, and what the held-out outputs [n, K] of the chosen one say."""

    readout: Readout
    alpha: float
    trials: tuple[Trial, ...]
    held_out: Float64
    scores: Scores

    @property
    def error(self) -> float:
        """The held-out error of the chosen regularisation."""
        return min(trial.error for trial in self.trials)

    @property
    def at_edge(self) -> bool:
        """Whether the best regularisation is the least or the greatest that was tried."""
        return len(self.trials) > 2 and self.alpha in (self.trials[0].alpha, self.trials[-1].alpha)


def class_targets(labels: Sequence[str]) -> Targets:
    """Targets of a classification. Raises InvalidInput for fewer than two classes."""
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        only = f"only the class {names[0]!r}" if names else "no samples"
        raise InvalidInput(f"the targets hold {only}: a classifier needs at least 2 classes", field="targets", expected="2 classes or more")
    columns = {name: column for column, name in enumerate(names)}
    values = np.full((len(labels), len(names)), -1.0)
    values[np.arange(len(labels)), [columns[label] for label in labels]] = 1.0
    return Targets(values, names)


def number_targets(values: NDArray[Any]) -> Targets:
    """Targets of a regression, [n] or [n, K]. Raises InvalidInput for what is not finite."""
    table = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    wrong = np.argwhere(~np.isfinite(table))
    if wrong.size:
        row, column = (int(at) for at in wrong[0])
        raise InvalidInput(
            f"the target of sample {row + 1} is {table[row, column]}, expected a finite number", field="targets", expected="finite numbers"
        )
    return Targets(table)


def make_folds(groups: Sequence[Hashable], count: int | None, seed: int = 0) -> Folds:
    """`count` folds (None: leave-one-out), each with its share of every group; `groups` are classes, or all equal.

    Raises InvalidInput where samples are too few: at least 2 of each class, or one for each fold.
    """
    n, least = len(groups), 2 if count is None else count
    if count is not None and count < 2:
        raise InvalidInput(f"folds is {count}, expected 2 or more", field="folds", value=count, expected="2 or more")
    way = "leave-one-out" if count is None else f"{count} folds"
    if n < max(least, 3):
        raise InvalidInput(
            f"{n} samples are too few for {way}, at least {max(least, 3)} are needed", field="samples", value=n, expected="more samples"
        )
    sizes = Counter(groups)
    small = [(group, size) for group, size in sizes.items() if size < least]
    if small:
        told = ", ".join(f"{group!r} has {size}" for group, size in sorted(small, key=str)[:8])
        raise InvalidInput(
            f"{way} needs at least {least} samples of each class, or a class would have none to learn from: {told}",
            field="samples",
            expected=f"at least {least} samples of each class",
        )
    if count is None:
        return None
    shuffled = np.random.default_rng(seed).permutation(n)
    order = {group: rank for rank, group in enumerate(sizes)}
    ranks = np.array([order[groups[at]] for at in shuffled])
    dealt = shuffled[np.argsort(ranks, kind="stable")]  # class after class, each dealt out to the folds in turn
    return [np.sort(dealt[start::count]) for start in range(count)]


def fit_readout(
    model: ModelConfiguration,
    features: NDArray[Any],
    targets: Targets,
    *,
    alphas: Sequence[float] = ALPHAS,
    folds: int | None = None,
    notes: dict[str, Any] | None = None,
) -> Fit:
    """The readout with the regularisation whose held-out squared error is least (of equal ones the greatest).

    `features` [n, 2 * depth * N] are those of `model`. `folds` None is leave-one-out. Scores of a classifier are calibrated on the held-out
    outputs. The same input gives the same readout. Raises InvalidInput for too few samples.
    """
    if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
        raise InvalidInput(f"alphas is {list(alphas)}, expected finite numbers above 0", field="alphas", expected="finite numbers above 0")
    tried = sorted(set(map(float, alphas)))
    classes = targets.classes
    groups = [0] * len(classes) if targets.labels is None else [targets.labels[number] for number in classes]
    parts = make_folds(groups, folds)
    spectrum = decompose(features)
    told = held_out(spectrum, targets.values, tried, parts)
    scale = np.ones(targets.values.shape[1]) if targets.labels is not None else _variances(targets.values)
    errors = [float((((values - targets.values) ** 2).mean(axis=0) / scale).mean()) for values in told]
    chosen = max(range(len(tried)), key=lambda at: (-errors[at], tried[at]))
    weights, intercept = solve(spectrum, targets.values, tried[chosen])
    sharpness = 1.0 if targets.labels is None else calibrated(told[chosen], classes)
    layer = OutputLayer(model.membrane_depth, model.esn_size, weights, intercept)
    readout = Readout(model, layer, targets.labels, sharpness)
    scores = scores_of(readout, told[chosen], targets.values)
    said: dict[str, Any] = {
        "alpha": tried[chosen],
        "samples": len(classes),
        "cross_validation": "leave-one-out" if folds is None else f"{folds} folds",
        "held_out": scores,
        **(notes or {}),
    }
    readout = Readout(model, layer, targets.labels, sharpness, said)
    trials = tuple(Trial(alpha, error) for alpha, error in zip(tried, errors, strict=True))
    return Fit(readout, tried[chosen], trials, told[chosen], scores)


def calibrated(values: Float64, classes: NDArray[np.intp]) -> float:
    """The sharpness s for which softmax(s values) has the least log loss: temperature scaling (Guo et al. 2017).

    Targets are smoothed as Platt (1999) does, by 1 / (n + K), so that classes which are held apart without an error keep a finite s. The
    loss is convex in s; its derivative is bisected.
    """
    n, k = values.shape
    smooth = np.full((n, k), 1.0 / (n + k))
    smooth[np.arange(n), classes] += 1.0 - k / (n + k)
    wanted = float((smooth * values).sum())
    low, high = 0.0, _SHARPEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        shifted = np.exp(middle * (values - values.max(axis=1, keepdims=True)))
        slope = float((shifted / shifted.sum(axis=1, keepdims=True) * values).sum()) - wanted
        low, high = (middle, high) if slope < 0 else (low, middle)
    return high


def _variances(values: Float64) -> Float64:
    variances: Float64 = values.var(axis=0)
    return np.where(variances > 0, variances, 1.0)
