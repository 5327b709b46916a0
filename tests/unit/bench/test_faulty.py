"""The compute that fails on purpose: it fails as told, and otherwise computes as the real one does."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench.faulty import EVERY, POISON, failing

from dtesn_sidecar.compute import drive


def tasks(*texts: str) -> list[Any]:
    return [SimpleNamespace(tree=SimpleNamespace(labels=np.frombuffer(text.encode(), np.uint8))) for text in texts]


def computed(*given: Any, **named: Any) -> Any:
    """In place of `drive`: it must be able to take what it is given."""
    inspect.signature(drive.drive).bind(*given, **named)
    return given, named


def test_a_run_without_the_fault_is_the_real_one_with_all_that_the_worker_gives_it() -> None:
    run = failing(computed, "poison")
    given = ("a reservoir", tasks("harmless"), set, print, int)
    assert run(*given, readout="a layer", cpu_clock=float) == (given, {"readout": "a layer", "cpu_clock": float})


def test_a_run_with_a_poisoned_text_fails_as_a_whole() -> None:
    with pytest.raises(RuntimeError, match="poisoned"):
        failing(computed, "poison")("a reservoir", tasks("harmless", POISON), set, print, int)


def test_every_fourth_run_of_several_items_has_no_memory() -> None:
    run, failed = failing(computed, "memory"), []
    for number in range(1, 2 * EVERY + 1):
        run("a reservoir", tasks("alone"), set, print, int)
        try:
            run("a reservoir", tasks("one", "two"), set, print, int)
        except MemoryError:
            failed.append(number)
    assert failed == [EVERY, 2 * EVERY]
