"""A readout in the processor: what is predicted is the readout of the features, whoever shares the batch."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import BatchConfiguration, ModelConfiguration, ReadoutSource
from dtesn_sidecar.errors import InvalidInput, RequestTooLarge
from dtesn_sidecar.model.readout.store import save_readout
from dtesn_sidecar.model.readout.value import OutputLayer, Readout
from dtesn_sidecar.outputs import predicted
from dtesn_sidecar.processor import DTESNProcessor

MODEL = ModelConfiguration(membrane_depth=2, esn_size=32)
TEXTS = ["the quick brown fox"[: 1 + n] for n in range(19)]


def made(labels: tuple[str, ...] | None, outputs: int = 3, depth: int = 2) -> Readout:
    random = np.random.default_rng(0)
    layer = OutputLayer(depth, 32, random.normal(size=(outputs, 64 * depth)), random.normal(size=outputs))
    return Readout(ModelConfiguration(membrane_depth=depth, esn_size=32), layer, labels, 0.7)


def serving(folder: Path, readout: Readout, model: ModelConfiguration = MODEL, workers: int = 0) -> DTESNProcessor:
    file = folder / "readout.safetensors"
    save_readout(readout, file)
    served = ModelConfiguration(
        membrane_depth=model.membrane_depth, esn_size=model.esn_size, seed=model.seed, readout=ReadoutSource(path=str(file))
    )
    return DTESNProcessor(served, True, BatchConfiguration(min_timeout=100.0), workers=workers, weights_folder=folder)


@pytest.mark.parametrize("labels", [None, ("a", "b", "c")])
@pytest.mark.parametrize("workers", [0, 1])
async def test_a_prediction_is_the_readout_of_the_features_alone_or_in_a_batch(
    labels: tuple[str, ...] | None, workers: int, tmp_path: Path
) -> None:
    readout = made(labels)
    async with serving(tmp_path, readout, workers=workers) as processor:
        together = await asyncio.gather(*(processor.process_with_dynamic_batching(text) for text in TEXTS))
        assert any(one.engine_integration.batch_processed for one in together)
        for text, one in zip(TEXTS, together, strict=True):
            alone = await processor.process_with_dynamic_batching(text, enable_batching=False, output="features")
            features = np.array(alone.processed_output.features, dtype=np.float32)
            prediction, scores = predicted(readout, readout.layer.apply(features))
            output = one.processed_output
            assert output.output == "readout"
            bound = 2e-6 * np.abs(readout.layer.weights).sum(axis=1).max()  # what 2e-6 in every feature can come to
            if labels is None:
                np.testing.assert_allclose(output.prediction, prediction, atol=bound)
            else:
                assert scores is not None
                assert output.prediction == prediction
                assert isinstance(output.scores, dict)
                np.testing.assert_allclose(list(output.scores.values()), list(scores.values()), atol=2e-6)
                assert sum(output.scores.values()) == pytest.approx(1)


async def test_a_bulk_call_of_predictions_is_bounded_by_their_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtesn_sidecar.bulk.MAX_FLOATS", 30)
    async with serving(tmp_path, made(None)) as processor:
        outcomes = await processor.process_batch(["text"] * 10)
        assert [outcome.status for outcome in outcomes] == ["success"] * 10
        with pytest.raises(RequestTooLarge, match="at most 30"):
            await processor.process_batch(["text"] * 11)


async def test_a_readout_of_another_depth_is_said_in_the_log_and_serves_requests_of_that_depth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dtesn_sidecar")
    readout = made(("a", "b"), outputs=2, depth=1)
    async with serving(tmp_path, readout) as processor:
        assert processor.readout is not None
        assert f"a classifier of 2 labels for membrane_depth 1 and esn_size 32, sha256 {processor.readout.digest}" in caplog.text
        assert [record.levelname for record in caplog.records if "predictions are only for requests" in record.getMessage()] == ["WARNING"]
        assert (await processor.process_with_dynamic_batching("text")).processed_output.output == "summary"
        answer = (await processor.process_with_dynamic_batching("text", membrane_depth=1)).processed_output
        assert (answer.output, answer.prediction in ("a", "b")) == ("readout", True)
        with pytest.raises(InvalidInput, match="only for membrane_depth 1"):
            await processor.process_with_dynamic_batching("text", output="readout")


def test_a_readout_for_another_network_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match=r"spec\.model\.seed is 7, but the readout was fitted with 42"):
        serving(tmp_path, made(None), ModelConfiguration(membrane_depth=2, esn_size=32, seed=7))
