"""What an answer holds: arrays from compute turned into the wire's values, and those into JSON.

Pure: no queue, no process. Who computes and when is in `processor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np
import orjson
from msgspec import UNSET

from dtesn_api.wire import EngineIntegration, LayerSummary, ModelInfo, ProcessedOutput, ProcessResult, StateSummary

if TYPE_CHECKING:
    from dtesn_sidecar.compute.job import Job
    from dtesn_sidecar.model.readout.value import Readout
    from dtesn_sidecar.model.trees import Tree

LARGE_FLOATS: Final = 16_384
"""Answers with more numbers than this are encoded in another process."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one request went, in seconds, and the batch that computed it: what Server-Timing says."""

    total: float
    build: float
    queue: float
    compute: float
    batch_items: int
    closed_by: str


@dataclass(frozen=True, slots=True)
class Processed:
    """One answer. `processed_output.features` is a float32 array here, flat; `body()` is what the wire carries."""

    processed_output: ProcessedOutput
    processing_time_ms: float
    engine_integration: EngineIntegration
    timing: Timing

    def body(self) -> ProcessResult:
        """The answer as the HTTP API defines it; `encode` writes it."""
        return ProcessResult(
            processed_output=self.processed_output,
            processing_time_ms=self.processing_time_ms,
            engine_integration=self.engine_integration,
        )


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of one input of a bulk call: `result` where `status` is "success", else `error`."""

    index: int
    status: Literal["success", "error"]
    result: Processed | None = None
    error: Exception | None = None


def processed_output(job: Job, value: object, model: ModelInfo, readout: Readout | None = None) -> ProcessedOutput:
    """The output of a job: what it asked for of summary, features, and the prediction of `readout`."""
    tree: Tree = job.tree
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a job's value is an array, not {type(value).__name__}")
    if job.output == "summary":
        return ProcessedOutput(output="summary", nodes=tree.nodes, height=tree.height, model=model, summary=_summary(value))
    if job.output == "readout" and readout is not None:
        prediction, scores = predicted(readout, value)
        given = UNSET if scores is None else scores
        return ProcessedOutput(output="readout", nodes=tree.nodes, height=tree.height, model=model, prediction=prediction, scores=given)
    flat: Any = value.reshape(-1).copy()  # a copy, since `value` may be a view of a whole batch's results
    return ProcessedOutput(output="features", nodes=tree.nodes, height=tree.height, model=model, features=flat, shape=list(value.shape))


def predicted(readout: Readout, value: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[str | list[float], dict[str, float] | None]:
    """What the outputs [outputs] of a readout say: a vector, or a label and the scores of all labels."""
    if readout.labels is None:
        return _short(value), None
    return readout.label(value), dict(zip(readout.labels, _short(readout.scores(value).astype(np.float32)), strict=True))


def encode(body: msgspec.Struct) -> bytes:
    """JSON with arrays as the shortest float32 text (NaN cannot occur: compute refuses it)."""
    return _ENCODER.encode(body)


def encode_with(body: msgspec.Struct, texts: Mapping[int, bytes]) -> bytes:
    """`encode`, with arrays (by their `id`) as the texts that another process wrote."""
    return msgspec.json.Encoder(enc_hook=lambda array: msgspec.Raw(texts[id(array)])).encode(body)


def large_arrays(body: object) -> list[np.ndarray[Any, np.dtype[Any]]]:
    """The features in a body that are too many to be encoded on the event loop."""
    results = (
        [body]
        if isinstance(body, ProcessResult)
        else [
            result for item in [body, *getattr(body, "results", ())] if isinstance(result := getattr(item, "result", None), ProcessResult)
        ]
    )
    features: list[Any] = [result.processed_output.features for result in results]
    found = [array for array in features if isinstance(array, np.ndarray)]
    return found if sum(array.size for array in found) > LARGE_FLOATS else []


def shortest(values: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """A JSON array of float32 numbers, each as the shortest text that reads back as the same float32."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)


def _short(value: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    numbers: list[float] = orjson.loads(shortest(np.ascontiguousarray(value)))
    return numbers


def _summary(value: np.ndarray[Any, np.dtype[np.float32]]) -> list[LayerSummary]:
    # Through the text, so that the numbers are as short as those of the features.
    layers: list[list[list[float]]] = orjson.loads(shortest(np.ascontiguousarray(value)))
    return [
        LayerSummary(root=StateSummary(norm=root[0], mean=root[1]), mean=StateSummary(norm=mean[0], mean=mean[1])) for root, mean in layers
    ]


def _array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return msgspec.Raw(shortest(value))
    raise TypeError(f"not JSON: {type(value).__name__}")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_array)
