"""Which outputs there are, and their arrays. Pure; who computes them is `running`, how they are written `answers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from dtesn_api.inference import (
    BYTES,
    FP32,
    INPUT_SERIES,
    INPUT_TEXT,
    MODEL_VERSION,
    OUTPUT_FEATURES,
    OUTPUT_PREDICTION,
    OUTPUT_SCORES,
    PLATFORM,
    ModelMetadata,
    TensorMetadata,
)
from dtesn_sidecar.oip.tensors import wrong

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_sidecar.model.readout.value import Readout
    from dtesn_sidecar.oip.requests import Asked

Prediction: TypeAlias = tuple[str | list[float], dict[str, float] | None]
"""What a readout says of a row: a vector, or a label and the scores by label."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One output tensor: a float32 array, or for BYTES the strings. `parameters` are those of its answer."""

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.float32] | Sequence[str]
    parameters: dict[str, Any]

    @property
    def datatype(self) -> str:
        """FP32 or BYTES."""
        return FP32 if isinstance(self.values, np.ndarray) else BYTES


def offered(readout: Readout | None, depth: int, esn_size: int) -> tuple[str, ...]:
    """The names of the outputs for a depth and a size."""
    if readout is None or not readout.is_for(depth, esn_size):
        return (OUTPUT_FEATURES,)
    scores = () if readout.labels is None else (OUTPUT_SCORES,)
    return (OUTPUT_FEATURES, OUTPUT_PREDICTION, *scores)


def chosen(asked: Asked, names: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """The outputs to answer with, and whether each is binary: those asked for, else all. Raises InvalidInput for one that there is not."""
    if not asked.outputs:
        return tuple((name, asked.binary) for name in names)
    for index, (name, _) in enumerate(asked.outputs):
        if name not in names:
            raise wrong(f"outputs[{index}].name", repr(name[:64]), f"one of {', '.join(names)} (for this depth and size)")
    return asked.outputs


def outputs_of(
    names: Sequence[str], features: NDArray[np.float32] | None, predictions: Sequence[Prediction], readout: Readout | None
) -> list[Output]:
    """The outputs of these names, from the rows' features [n, depth, 2, esn_size] and what the readout says of each."""
    found = []
    for name in names:
        if name == OUTPUT_FEATURES and features is not None:
            found.append(Output(name, features.shape, features, {}))
        elif readout is not None:
            found.append(_read(name, predictions, readout.labels))
    return found


def model_metadata(config: ModelConfiguration, readout: Readout | None) -> ModelMetadata:
    """The model with its inputs, and the outputs of its own depth and size."""
    depth, size = config.membrane_depth, config.esn_size
    shapes = {OUTPUT_FEATURES: [-1, depth, 2, size]}
    datatypes = dict.fromkeys((OUTPUT_FEATURES, OUTPUT_SCORES), FP32)
    if readout is not None:
        classifier = readout.labels is not None
        shapes |= {OUTPUT_PREDICTION: [-1] if classifier else [-1, readout.outputs], OUTPUT_SCORES: [-1, readout.outputs]}
        datatypes[OUTPUT_PREDICTION] = BYTES if classifier else FP32
    return ModelMetadata(
        name=config.name,
        versions=[MODEL_VERSION],
        platform=PLATFORM,
        inputs=[
            TensorMetadata(name=INPUT_TEXT, datatype=BYTES, shape=[-1]),
            TensorMetadata(name=INPUT_SERIES, datatype=FP32, shape=[-1, -1, -1]),
        ],
        outputs=[TensorMetadata(name=name, datatype=datatypes[name], shape=shapes[name]) for name in offered(readout, depth, size)],
    )


def _read(name: str, predictions: Sequence[Prediction], labels: Sequence[str] | None) -> Output:
    if name == OUTPUT_SCORES and labels is not None:
        columns = msgspec.json.encode(labels).decode()  # a parameter is a string, a number or a flag
        scores = np.array([[row[label] for label in labels] for _, row in predictions if row is not None], dtype=np.float32)
        return Output(name, scores.shape, scores, {"labels": columns})
    if labels is not None:
        return Output(name, (len(predictions),), [str(label) for label, _ in predictions], {})
    values = np.array([vector for vector, _ in predictions], dtype=np.float32)
    return Output(name, values.shape, values, {})
