"""What is in an answer, in another form: features as nested lists or a NumPy array, an input of a bulk call as result or exception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from dtesn_api.wire import BatchItem, ProcessedOutput, ProcessResponse, ProcessResult
from dtesn_sidecar.client.errors import BadAnswer, of_document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROOT: Final = 0
MEAN: Final = 1


def features_of(answer: ProcessResponse | ProcessResult) -> list[list[list[float]]]:
    """The features of an answer that was asked for with `output="features"`, as lists of shape [layers, 2, units].

    The second axis is `ROOT`, `MEAN`. Raises ValueError where the answer holds no features, and BadAnswer where their number is not
    that of their shape.
    """
    flat, (layers, kinds, units) = _features(_output(answer))
    rows = [flat[at : at + units] for at in range(0, len(flat), units)]
    return [rows[kinds * layer : kinds * (layer + 1)] for layer in range(layers)]


def features_array(answer: ProcessResponse | ProcessResult) -> NDArray[np.float32]:
    """As `features_of`, as a float32 array of shape [layers, 2, units]. Raises ImportError where NumPy is not installed."""
    import numpy as np

    flat, shape = _features(_output(answer))
    return np.asarray(flat, dtype=np.float32).reshape(shape)


def result_of(item: BatchItem) -> ProcessResult:
    """The result of one input of a bulk call. Raises the error that the input ended with, as `process` would have."""
    if item.error is not UNSET:
        raise of_document(item.error)
    if item.result is UNSET:
        raise BadAnswer(f"item {item.index} has neither a result nor an error")
    return item.result


def _output(answer: ProcessResponse | ProcessResult) -> ProcessedOutput:
    return (answer.result if isinstance(answer, ProcessResponse) else answer).processed_output


def _features(output: ProcessedOutput) -> tuple[list[float], tuple[int, int, int]]:
    if output.features is UNSET or output.shape is UNSET:
        raise ValueError(f'the answer holds a {output.output}, no features: ask for output="features"')
    if len(output.shape) != 3 or min(output.shape) < 1 or len(output.features) != output.shape[0] * output.shape[1] * output.shape[2]:
        raise BadAnswer(f"the answer holds {len(output.features)} features, but says that their shape is {output.shape}")
    layers, kinds, units = output.shape
    return output.features, (layers, kinds, units)
