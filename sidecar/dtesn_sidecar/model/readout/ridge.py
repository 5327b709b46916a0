"""Ridge regression with a free intercept, for every regularisation at once, and its exact cross-validation.

One eigendecomposition of the centred features' Gram matrix, the smaller of [F, F] and [n, n], serves every alpha (Hastie, Tibshirani &
Friedman, The Elements of Statistical Learning, 3.4.1). With H the hat matrix and e = (I - H) y, the residuals of the fit without the
samples of a fold S, its intercept included, are (I - H_SS)^-1 e_S; leave-one-out is the fold of one sample, e_i / (1 - H_ii) (Golub, Heath
& Wahba 1979). No fit is repeated. Features stay as they are (they may lie in a file) and are read in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtesn_sidecar.errors import InvalidInput

MAX_RANK: Final = 16_384
"""The smaller of samples and features; its square is kept in float64 (2 GiB)."""

_BLOCK: Final = 1024

Float64: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Features [n, F] with their mean [F], and the eigenvalues [r] of their centred Gram matrix.

    `vectors` are its eigenvectors: [n, n - 1], orthogonal to the constant, where `dual` (n <= F), else [F, r] without the null.
    """

    features: NDArray[Any]
    mean: Float64
    values: Float64
    vectors: Float64
    dual: bool

    def centred(self, rows: slice | NDArray[np.intp]) -> Float64:
        """The centred features of these rows."""
        block: Float64 = np.asarray(self.features[rows], dtype=np.float64) - self.mean
        return block

    def left(self, rows: slice | NDArray[np.intp]) -> Float64:
        """These rows of U, the left singular vectors of the centred features."""
        if self.dual:
            return self.vectors[rows]
        return self.centred(rows) @ (self.vectors / np.sqrt(self.values))

    def kept(self, alpha: float) -> Float64:
        """The share of each direction that the fit keeps: the eigenvalues of H but for the constant's."""
        return self.values / (self.values + alpha)

    def lost(self, alpha: float) -> Float64:
        """The share of each direction that the fit loses."""
        return alpha / (self.values + alpha)

    def blocks(self) -> Iterator[slice]:
        """All rows, a block at a time."""
        n = self.features.shape[0]
        return (slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))

    def moments(self, targets: Float64) -> Float64:
        """U' targets: [r, K]."""
        if self.dual:
            return self.vectors.T @ targets
        return sum_of(self.left(rows).T @ targets[rows] for rows in self.blocks())


def decompose(features: NDArray[Any]) -> Spectrum:
    """The spectrum of features [n, F], n >= 2. Raises InvalidInput where it would be larger than `MAX_RANK`."""
    n, width = features.shape
    if min(n, width) > MAX_RANK:
        raise InvalidInput(
            f"{n} samples of {width} features need a matrix of {min(n, width)} squared, at most {MAX_RANK} squared is kept: take fewer "
            "samples, layers or units",
            field="samples",
            value=n,
            expected=f"at most {MAX_RANK} samples, or at most as many features",
        )
    whole = Spectrum(features, np.zeros(width), np.zeros(0), np.zeros((0, 0)), dual=n <= width)
    mean = sum_of(whole.centred(rows).sum(axis=0) for rows in whole.blocks()) / n
    centred = Spectrum(features, mean, whole.values, whole.vectors, whole.dual)
    if not centred.dual:
        gram = sum_of((block := centred.centred(rows)).T @ block for rows in centred.blocks())
        values, vectors = np.linalg.eigh(gram)
        there = values > width * np.finfo(np.float64).eps * values[-1]
        return Spectrum(features, mean, values[there], vectors[:, there], dual=False)
    gram = np.empty((n, n))
    for rows in centred.blocks():
        block = centred.centred(rows)
        for others in centred.blocks():
            gram[rows, others] = block @ centred.centred(others).T
    # The constant has the eigenvalue 0, as has whatever else the features do not tell apart. Raised above all others, it comes out last
    # and alone, and what is left is orthogonal to it.
    gram += (2.0 * np.trace(gram) + 1.0) / n
    values, vectors = np.linalg.eigh(gram)
    return Spectrum(features, mean, np.maximum(values[:-1], 0.0), vectors[:, :-1], dual=True)


def solve(spectrum: Spectrum, targets: Float64, alpha: float) -> tuple[Float64, Float64]:
    """Weights [K, F] and intercept [K] that minimise |targets - intercept - X weights'|^2 + alpha |weights|^2, for targets [n, K]."""
    projected = spectrum.moments(targets)
    if spectrum.dual:
        duals = spectrum.vectors @ (projected / (spectrum.values + alpha)[:, None])
        weights = sum_of(spectrum.centred(rows).T @ duals[rows] for rows in spectrum.blocks()).T
    else:
        weights = (spectrum.vectors @ (projected * (np.sqrt(spectrum.values) / (spectrum.values + alpha))[:, None])).T
    return np.ascontiguousarray(weights), targets.mean(axis=0) - weights @ spectrum.mean


def held_out(spectrum: Spectrum, targets: Float64, alphas: Sequence[float], folds: Sequence[NDArray[np.intp]] | None) -> Float64:
    """For each alpha and sample what the fit without the sample's fold says: [alphas, n, K]. No folds: each sample is its own."""
    n, dual = len(targets), spectrum.dual
    centred, projected = targets - targets.mean(axis=0), spectrum.moments(targets)
    told = np.empty((len(alphas), *targets.shape))
    # I - H = U diag(g) U' + rest (I - 11'/n). In the dual form U spans all but the constant and g is what the fit loses of each
    # direction: there is no rest, and nothing cancels however small alpha is.
    rest = 0.0 if dual else 1.0
    for rows in spectrum.blocks() if folds is None else folds:
        left = spectrum.left(rows)
        for at, alpha in enumerate(alphas):
            weighted = left * (spectrum.lost(alpha) if dual else -spectrum.kept(alpha))
            residuals = weighted @ projected + rest * centred[rows]
            if folds is None:
                residuals /= ((weighted * left).sum(axis=1) + rest * (1.0 - 1.0 / n))[:, None]
            else:
                residuals = np.linalg.solve(weighted @ left.T + rest * (np.eye(len(left)) - 1.0 / n), residuals)
            told[at, rows] = targets[rows] - residuals
    return told


def sum_of(parts: Iterator[Float64]) -> Float64:
    """The sum of arrays, added in their order."""
    total = next(parts)
    for part in parts:
        total = total + part
    return total
