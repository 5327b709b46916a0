"""A fitted readout as a value: features in, predictions out, and the reservoir that it was fitted for.

How it is fitted is in `fitting`, its file in `store`. NumPy alone: this is what every worker imports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dtesn_api.problems import Problem, shown
from dtesn_api.schema import wire_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dtesn_api.spec import ModelConfiguration

PINNED: Final = (
    "seed",
    "spectral_radius",
    "leak_rate",
    "input_scaling",
    "inter_scaling",
    "bias",
    "aggregation_exponent",
    "order",
    "topology",
    "dtype",
)
"""Fields of the model which, beside depth and size, decide what its features are."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class OutputLayer:
    """The linear map y = intercept + weights x for the features of the first `depth` layers of `esn_size` units.

    `weights` is float64 [outputs, 2 * depth * esn_size], in the order of features [depth, 2, esn_size]; `intercept` float64 [outputs].
    """

    depth: int
    esn_size: int
    weights: Float64
    intercept: Float64

    def apply(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Features [depth, 2, esn_size] of one item to float32 [outputs], summed in float64.

        One item at a time, so that an answer does not depend on those beside it.
        """
        values = self.weights @ features.reshape(-1).astype(np.float64)
        return (values + self.intercept).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """A fitted readout. `labels` (one per output, sorted as they were fitted) makes it a classifier; None is regression.

    A classifier's outputs z become scores softmax(sharpness * z). `model` is the reservoir it was fitted for. `notes` tells how it was
    fitted, for people. `digest` is the SHA-256 of its file, empty where it has none.
    """

    model: ModelConfiguration
    layer: OutputLayer
    labels: tuple[str, ...] | None = None
    sharpness: float = 1.0
    notes: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def depth(self) -> int:
        """Layers whose features it reads."""
        return self.layer.depth

    @property
    def esn_size(self) -> int:
        """Units of each layer."""
        return self.layer.esn_size

    @property
    def outputs(self) -> int:
        """Numbers that it gives: a classifier one per label."""
        return len(self.layer.intercept)

    def is_for(self, depth: int, esn_size: int) -> bool:
        """Whether features of this depth and size can be read."""
        return (depth, esn_size) == (self.depth, self.esn_size)

    def scores(self, values: NDArray[Any]) -> Float64:
        """Outputs [..., outputs] of a classifier as scores in [0, 1] that sum to 1, in the order of `labels`."""
        return softmax(self.sharpness * np.asarray(values, dtype=np.float64))

    def label(self, values: NDArray[Any]) -> str:
        """The label with the largest output; of equal ones the first."""
        if self.labels is None:
            raise TypeError("a regression has no labels")
        return self.labels[int(np.argmax(values))]


def softmax(values: Float64) -> Float64:
    """exp(v) / sum(exp(v)) along the last axis, without overflow."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    total: Float64 = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


def unlike(fitted: ModelConfiguration, served: ModelConfiguration, where: str = "spec.model") -> list[Problem]:
    """What keeps a readout that was fitted for one reservoir from reading another: a problem for each field that differs.

    Depth and size are not among them: which of the served model's depths and sizes it reads is `Readout.is_for`.
    """
    found = []
    for name in PINNED:
        ours, theirs = getattr(served, name), getattr(fitted, name)
        if ours != theirs:
            path = f"{where}.{wire_name(name)}" if where else name
            message = f"{path} is {shown(ours)}, but the readout was fitted with {shown(theirs)}"
            found.append(Problem(field=path, value=ours, expected=f"{theirs}, with which the readout was fitted", message=message))
    return found


def readout_of(model: ModelConfiguration) -> Readout | None:
    """The readout that the model names, if it does. Raises SpecInvalid with every problem where it cannot be served."""
    if model.readout is None:
        return None
    from dtesn_sidecar.model.readout.store import named_readout  # safetensors is for those who serve a readout

    return named_readout(model, model.readout)
