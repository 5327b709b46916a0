"""What the server does on its own, in virtual time: it goes on following its file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec
from dtesn_sidecar import app
from dtesn_sidecar.app import Sidecar
from dtesn_sidecar.config import Configuration

pytestmark = pytest.mark.looptime

FIRST = Configuration(DTESNBatcherSpec(), Path("/etc/batcher.yaml"), "first")
SECOND = replace(FIRST, spec=DTESNBatcherSpec(batching=BatchConfiguration(target_batch_size=3)), config_hash="second")


async def test_a_file_that_cannot_be_followed_is_shown_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def watch(*_arguments: object) -> AsyncIterator[Configuration]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise MemoryError("no memory for the file")
        yield SECOND

    monkeypatch.setattr(app, "watch", watch)
    sidecar: Any = Sidecar(FIRST, {}, {})
    following = asyncio.create_task(sidecar._follow_file())
    await asyncio.sleep(0)  # one turn of the loop
    shown = sidecar._config_response()
    assert shown.config_hash == "first"
    (error,) = shown.reload_errors
    assert error.field == "/etc/batcher.yaml"
    assert "MemoryError: no memory for the file" in error.message
    assert "could not be followed" in caplog.text
    assert b"dtesn_config_reload_errors_total 1.0" in sidecar._metrics.exposition("")[0]
    await following
    shown = sidecar._config_response()
    assert (shown.config_hash, shown.reload_errors) == ("second", [])
    await sidecar._tracker.aclose()
