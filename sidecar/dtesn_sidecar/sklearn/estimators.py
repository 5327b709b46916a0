"""The estimators. The network is `model`'s, the fit `model.readout`'s; here is what scikit-learn expects around them.

Features are computed anew by each `fit` and `transform`, in batches of bounded memory; weights follow from the parameters and are kept
only while they are used, so that a fitted estimator is small and can be cloned and stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.errors import DTESNError
from dtesn_sidecar.model.featurise import feature_matrix, reservoir_of
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.readout.fitting import ALPHAS, Targets, fit_readout, number_targets
from dtesn_sidecar.model.readout.store import save_readout
from dtesn_sidecar.model.readout.value import Readout, softmax
from dtesn_sidecar.model.trees import Tree

if TYPE_CHECKING:
    from sklearn.utils import Tags

Inputs: TypeAlias = Sequence[object] | NDArray[Any]
Array: TypeAlias = NDArray[Any]


class _Network(BaseEstimator):  # type: ignore[misc, unused-ignore]
    """The parameters of the network, which are those of `spec.model`, and inputs to features."""

    def __init__(
        self,
        membrane_depth: int = 4,
        esn_size: int = 512,
        seed: int = 42,
        spectral_radius: float = 0.9,
        leak_rate: float = 0.3,
        input_scaling: float = 1.0,
        inter_scaling: float = 1.0,
        bias: float = 0.1,
        aggregation_exponent: float = 0.0,
        order: int = 1,
        topology: str = "orthogonal",
        dtype: str = "float32",
        max_nodes: int = 4096,
        input_format: str = "auto",
    ) -> None:
        self.membrane_depth = membrane_depth
        self.esn_size = esn_size
        self.seed = seed
        self.spectral_radius = spectral_radius
        self.leak_rate = leak_rate
        self.input_scaling = input_scaling
        self.inter_scaling = inter_scaling
        self.bias = bias
        self.aggregation_exponent = aggregation_exponent
        self.order = order
        self.topology = topology
        self.dtype = dtype
        self.max_nodes = max_nodes
        self.input_format = input_format

    def _model(self) -> ModelConfiguration:
        """The network. Raises SpecInvalid (a ValueError) naming every parameter that is out of range."""
        names = set(_Network.__init__.__annotations__) - {"input_format", "return"}
        return ModelConfiguration(**{name: getattr(self, name) for name in names})

    def _trees(self, inputs: Inputs, *, first: bool) -> list[Tree]:
        """The inputs parsed. An array or a table of numbers is checked as scikit-learn does, and its width is remembered at the `first`."""
        if getattr(inputs, "ndim", 2) == 1:  # a column of a data frame, too
            inputs = np.asarray(inputs)
        if _is_table(inputs):
            inputs = validate_data(self, inputs, reset=first, dtype=np.float64, ensure_min_samples=1)
        elif first and hasattr(self, "n_features_in_"):
            del self.n_features_in_
        with _value_errors():
            parsed = [self._tree(data, f"X[{at}]") for at, data in enumerate(inputs)]
        if not parsed:
            raise ValueError("X holds 0 sample(s), while a minimum of 1 is required.")
        return parsed

    def _tree(self, data: object, field: str) -> Tree:
        return data if isinstance(data, Tree) else parse_input(data, self.input_format, max_nodes=self.max_nodes, field=field)

    def _features(self, trees: Sequence[Tree]) -> Array:
        model = self._model()
        kept = np.float64 if model.dtype == "float64" else np.float32
        out = np.empty((len(trees), 2 * model.membrane_depth * model.esn_size), dtype=kept)
        return feature_matrix(reservoir_of(model, features_dtype=kept), trees, out)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        return tags


class DTESNFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Network):  # type: ignore[misc, unused-ignore]
    """Inputs to features [n, 2 * membrane_depth * esn_size]: of each layer the root's state, then the mean state of all nodes.

    Nothing is learned: `fit` only checks. float32, or float64 where `dtype` is.
    """

    def fit(self, X: Inputs, y: object = None) -> Self:
        """Check parameters and inputs. Raises ValueError naming what is wrong."""
        self._trees(X, first=True)
        model = self._model()
        self.n_features_out_ = 2 * model.membrane_depth * model.esn_size
        return self

    def transform(self, X: Inputs) -> Array:
        """The features of each input."""
        check_is_fitted(self)
        return self._features(self._trees(X, first=False))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [self.dtype]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_


class _Fitted(_Network):
    """A network with a readout: what classifier and regressor share."""

    def __init__(
        self,
        membrane_depth: int = 4,
        esn_size: int = 512,
        seed: int = 42,
        spectral_radius: float = 0.9,
        leak_rate: float = 0.3,
        input_scaling: float = 1.0,
        inter_scaling: float = 1.0,
        bias: float = 0.1,
        aggregation_exponent: float = 0.0,
        order: int = 1,
        topology: str = "orthogonal",
        dtype: str = "float32",
        max_nodes: int = 4096,
        input_format: str = "auto",
        alphas: Sequence[float] = ALPHAS,
        folds: int | None = None,
    ) -> None:
        super().__init__(
            membrane_depth,
            esn_size,
            seed,
            spectral_radius,
            leak_rate,
            input_scaling,
            inter_scaling,
            bias,
            aggregation_exponent,
            order,
            topology,
            dtype,
            max_nodes,
            input_format,
        )
        self.alphas = alphas
        self.folds = folds

    def _fit(self, X: Inputs, targets: Targets, trees: Sequence[Tree]) -> Self:
        if len(trees) != len(targets.values):
            raise ValueError(f"X has {len(trees)} samples, y has {len(targets.values)}: inconsistent numbers of samples")
        with _value_errors():
            fit = fit_readout(self._model(), self._features(trees), targets, alphas=self.alphas, folds=self.folds)
        self.readout_ = fit.readout
        self.alpha_ = fit.alpha
        self.held_out_error_ = fit.error
        self.held_out_scores_ = fit.scores
        return self

    def _outputs(self, X: Inputs) -> Array:
        check_is_fitted(self)
        features = self._features(self._trees(X, first=False)).astype(np.float64)
        layer = self.readout_.layer
        return np.array([layer.weights @ row for row in features]) + layer.intercept

    def save(self, path: str | Path) -> str:
        """Write the readout as a file that `dtesn-sidecar serve` reads; its SHA-256. Atomic. Raises OSError."""
        check_is_fitted(self)
        return save_readout(self._readout(), Path(path))

    def _readout(self) -> Readout:
        readout: Readout = self.readout_
        return readout


class DTESNClassifier(ClassifierMixin, _Fitted):  # type: ignore[misc, unused-ignore]
    """A classifier: ridge regression on coded classes, calibrated scores; the regularisation by leave-one-out or `folds`.

    After `fit`: `classes_`, `readout_`, `alpha_`, `held_out_scores_` (accuracy, balanced_accuracy, log_loss) and `held_out_error_`, the
    mean squared error of the coded classes: what the regularisation is chosen by, and what parameters are best chosen by.
    """

    def fit(self, X: Inputs, y: Sequence[object] | Array) -> Self:
        """Fit to labels y [n]. Raises ValueError naming what is wrong with parameters, inputs or labels."""
        trees = self._trees(X, first=True)
        labels = column_or_1d(_given(self, y), warn=True)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds {len(self.classes_)} class, a classifier needs at least 2 classes")
        names = tuple(str(label) for label in self.classes_)
        return self._fit(X, Targets(np.where(numbers[:, None] == np.arange(len(names)), 1.0, -1.0), names), trees)

    def decision_function(self, X: Inputs) -> Array:
        """The outputs [n, classes]; of two classes that of the second alone, [n]."""
        values = self._outputs(X)
        return values[:, 1] if len(self.classes_) == 2 else values

    def predict_proba(self, X: Inputs) -> Array:
        """Scores [n, classes] that sum to 1."""
        return softmax(self._outputs(X) * self._readout().sharpness)

    def predict(self, X: Inputs) -> Array:
        """The label of each input."""
        numbers = np.argmax(self._outputs(X), axis=1)
        return np.asarray(self.classes_[numbers])


class DTESNRegressor(RegressorMixin, _Fitted):  # type: ignore[misc, unused-ignore]
    """A regressor: ridge regression, of one target or several at once; the regularisation by leave-one-out or `folds`.

    After `fit`: `readout_`, `alpha_`, `held_out_scores_` (mae, rmse, r2) and `held_out_error_`, the mean squared error in units of the
    targets' variance.
    """

    def fit(self, X: Inputs, y: Sequence[object] | Array) -> Self:
        """Fit to numbers y [n] or [n, K]. Raises ValueError naming what is wrong with parameters, inputs or targets."""
        trees = self._trees(X, first=True)
        values = check_array(_given(self, y), dtype=np.float64, ensure_2d=False, input_name="y")
        self._single = values.ndim == 1
        return self._fit(X, number_targets(values), trees)

    def predict(self, X: Inputs) -> Array:
        """The prediction for each input: [n], or [n, K] where y had two axes."""
        values = self._outputs(X)
        return values[:, 0] if self._single else values

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


@contextmanager
def _value_errors() -> Iterator[None]:
    """What is wrong with data as the ValueError that users of scikit-learn expect."""
    try:
        yield
    except DTESNError as error:
        raise ValueError(error.detail) from error


def _is_table(inputs: object) -> bool:
    """Whether scikit-learn checks these inputs: an array, a data frame or a sparse matrix, or rows of numbers of one length."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim < 3 and inputs.dtype.kind != "U" and not _of_objects(inputs)
    if not isinstance(inputs, list | tuple):
        return True
    return (
        bool(inputs)
        and all(isinstance(row, list | tuple) and row and isinstance(row[0], int | float) for row in inputs)
        and len({len(row) for row in inputs}) == 1
    )


def _of_objects(inputs: Array) -> bool:
    return inputs.dtype.kind == "O" and inputs.ndim == 1


def _given(estimator: object, y: object) -> Array:
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    return np.asarray(y)
