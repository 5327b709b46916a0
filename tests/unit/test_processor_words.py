"""What the processor says in the log, and what it refuses to begin with."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import ModelConfiguration, ReadoutSource
from dtesn_sidecar.processor import DTESNProcessor

MODEL = ModelConfiguration(membrane_depth=1, esn_size=32, spectral_radius=0.9, aggregation_exponent=0.5)  # stable for one child


def wide(children: int) -> dict[str, object]:
    return {"label": 1, "children": [{"label": 2}] * children}


async def test_the_first_tree_beyond_the_models_degree_is_warned_of_and_no_later_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with DTESNProcessor(MODEL, weights_folder=tmp_path) as processor:
        await processor.process_with_dynamic_batching("a chain")
        await processor.process_with_dynamic_batching(wide(1))
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        await processor.process_with_dynamic_batching(wide(7))
        await processor.process_with_dynamic_batching(wide(50))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "degree 7" in record.getMessage()
    assert "echo state property" in record.getMessage()


async def test_a_tree_of_a_bulk_call_is_warned_of_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with DTESNProcessor(MODEL, weights_folder=tmp_path) as processor:
        await processor.process_batch(["a", wide(3), wide(4)])
    assert "degree 3" in caplog.text
    assert "degree 4" not in caplog.text


async def test_a_model_that_is_stable_for_any_degree_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stable = ModelConfiguration(membrane_depth=1, esn_size=32, spectral_radius=0.9, aggregation_exponent=1.0)
    async with DTESNProcessor(stable, weights_folder=tmp_path) as processor:
        await processor.process_with_dynamic_batching(wide(50))
    assert "echo state" not in caplog.text


async def test_the_backend_that_was_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dtesn_sidecar")
    async with DTESNProcessor(MODEL, backend="auto", weights_folder=tmp_path) as processor:
        said = f"backend {processor.backend} on {processor.device}"
    assert [record.levelname for record in caplog.records if record.getMessage().startswith(said)] == ["INFO"]


def test_a_readout_that_is_not_there_is_an_error_and_not_left_out_in_silence() -> None:
    with pytest.raises(SpecInvalid, match="/models/readout is unreadable"):
        DTESNProcessor(ModelConfiguration(readout=ReadoutSource(path="/models/readout")))
