"""What README shows is what happens."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from dtesn_sidecar import DTESNProcessor

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs() -> None:
    (program,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert printed.getvalue() == "[3, 7, 7]\n42\n"


def test_the_answer_shown_is_the_answer_given() -> None:
    request = json.loads(re.findall(r"-d '(\{.*?\})'", README)[0])
    shown = json.loads(blocks("json")[0])["result"]["processed_output"]

    async def ask() -> object:
        async with DTESNProcessor() as processor:
            return (await processor.process_with_dynamic_batching(**request)).processed_output

    output = asyncio.run(ask())
    assert (output.nodes, output.height, output.output) == (shown["nodes"], shown["height"], shown["output"])  # type: ignore[attr-defined]
    for layer, expected in zip(output.summary, shown["summary"], strict=True):  # type: ignore[attr-defined]
        for state in ("root", "mean"):
            got = getattr(layer, state)
            assert got.norm == pytest.approx(expected[state]["norm"], abs=5e-5)
            assert got.mean == pytest.approx(expected[state]["mean"], abs=2e-6)


def test_the_error_shown_names_field_value_and_range() -> None:
    shown = json.loads(blocks("json")[1])
    assert (shown["status"], shown["field"], shown["value"]) == (422, "esn_size", 7)
    assert shown["expected"] in shown["detail"]
