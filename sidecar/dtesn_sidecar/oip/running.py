"""One request through the processor: its rows as items of the batches, their answers as output tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from dtesn_api.inference import OUTPUT_FEATURES
from dtesn_sidecar.bulk import MAX_FLOATS
from dtesn_sidecar.errors import DTESNError, RequestTooLarge
from dtesn_sidecar.oip.outputs import Output, Prediction, chosen, offered, outputs_of
from dtesn_sidecar.outputs import Timing, predicted
from dtesn_sidecar.requests import Options
from dtesn_sidecar.routes_bulk import longest

if TYPE_CHECKING:
    from dtesn_api.wire import ProcessedOutput
    from dtesn_sidecar.model.readout.value import Readout
    from dtesn_sidecar.model.trees import Tree
    from dtesn_sidecar.oip.requests import Asked
    from dtesn_sidecar.processor import DTESNProcessor


@dataclass(frozen=True, slots=True, eq=False)
class Inferred:
    """An answer: the outputs, each with whether it is to be binary, and the times of the slowest row."""

    id: str
    outputs: list[tuple[Output, bool]]
    timing: Timing


async def infer(processor: DTESNProcessor, asked: Asked, trees: list[Tree], accepted_at: float) -> Inferred:
    """Compute the rows. The first row that fails fails the request with its error, and the rows that are left are withdrawn.

    Raises InvalidInput for an output that there is not, and what computing raises.
    """
    config, readout = processor.config, processor.readout
    depth = config.membrane_depth if asked.membrane_depth is None else asked.membrane_depth
    size = config.esn_size if asked.esn_size is None else asked.esn_size
    wanted = chosen(asked, offered(readout, depth, size))
    names = [name for name, _ in wanted]
    options = Options(
        membrane_depth=asked.membrane_depth,
        esn_size=asked.esn_size,
        timeout=asked.timeout,
        output="features" if OUTPUT_FEATURES in names else "readout",
    )
    if asked.priority is not None:
        options["priority"] = asked.priority
    done, timing = await _rows(processor, trees, options, accepted_at)
    features = _features(done) if OUTPUT_FEATURES in names else None
    predictions: list[Prediction] = []
    if readout is not None and names != [OUTPUT_FEATURES]:
        predictions = _predictions(done) if features is None else await asyncio.to_thread(_predict, readout, features)
    outputs = outputs_of(names, features, predictions, readout)
    return Inferred(asked.id, [(output, binary) for output, (_, binary) in zip(outputs, wanted, strict=True)], timing)


async def _rows(processor: DTESNProcessor, trees: list[Tree], options: Options, accepted_at: float) -> tuple[list[ProcessedOutput], Timing]:
    """The output of each row, and the longest times."""
    if len(trees) == 1:
        done = await processor.process_with_dynamic_batching(trees[0], accepted_at=accepted_at, **options)
        return [done.processed_output], done.timing
    found: dict[int, ProcessedOutput] = {}
    timing: Timing | None = None
    outcomes = processor.stream_batch(trees, accepted_at=accepted_at, held=True, **options)
    async with aclosing(outcomes):  # what is left is withdrawn where a row fails and where the client goes away
        try:
            async for outcome in outcomes:
                if outcome.result is None:
                    raise _of_row(outcome.error, outcome.index, len(trees))
                found[outcome.index] = outcome.result.processed_output
                timing = longest(timing, outcome.result.timing)
        except RequestTooLarge as error:
            if error.field != "inputs":
                raise
            raise _too_many(len(trees)) from None  # in the words of this protocol
    if timing is None or len(found) != len(trees):
        raise RuntimeError(f"{len(found)} outcomes of {len(trees)} rows")
    return [found[index] for index in range(len(trees))], timing


def _features(done: Sequence[ProcessedOutput]) -> NDArray[np.float32]:
    """The features of all rows [n, depth, 2, esn_size]."""
    flat: list[Any] = [row.features for row in done]  # arrays here, as `outputs.Processed` says
    shape: Any = done[0].shape
    return np.stack(flat).reshape(len(done), *shape)


def _predictions(done: Sequence[ProcessedOutput]) -> list[Prediction]:
    rows: list[Any] = [(row.prediction, None if row.scores is UNSET else row.scores) for row in done]
    return rows


def _predict(readout: Readout, features: NDArray[np.float32]) -> list[Prediction]:
    """In a thread: what the workers do where the prediction alone is asked for."""
    return [predicted(readout, readout.layer.apply(row)) for row in features]


def _of_row(error: Exception | None, index: int, count: int) -> Exception:
    """The error of one row, saying which; the one it came from may be shared with others."""
    if not isinstance(error, DTESNError):
        return error if error is not None else RuntimeError("an outcome without result and error")
    return type(error)(
        f"row {index} of {count}: {error.detail}",
        retry_after=error.retry_after,
        field=error.field,
        value=error.value,
        expected=error.expected,
    )


def _too_many(count: int) -> RequestTooLarge:
    allowed = f"few enough that the answer has at most {MAX_FLOATS} numbers"
    return RequestTooLarge(f"there are {count} rows, expected {allowed}", field="rows", value=count, expected=allowed)
