"""docs/library.md: its blocks run one after the other and print what stands below them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
from pathlib import Path

from tests.integration.http_server import running

import dtesn_sidecar
import dtesn_sidecar.client

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)


def test_every_block_runs_and_prints_what_is_shown() -> None:
    assert len(BLOCKS) == TEXT.count("```python") == TEXT.count("```text")
    with running() as server:

        async def all_blocks() -> list[tuple[str, str]]:
            names: dict[str, object] = {"__name__": "library"}
            outcomes = []
            for block, shown in BLOCKS:
                code = compile(
                    block.replace("http://localhost:8080", server.url), "library.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                )
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    done = eval(code, names)
                    if inspect.isawaitable(done):
                        await done
                outcomes.append((printed.getvalue(), shown))
            return outcomes

        for printed, shown in asyncio.run(all_blocks()):
            assert printed == shown


def test_every_exported_name_is_in_the_document() -> None:
    for name in [*dtesn_sidecar.__all__, "DTESNClient", "RetryPolicy"]:
        assert re.search(rf"\b{name}\b", TEXT), name
    for name in dtesn_sidecar.client.__all__:
        assert name in TEXT or name in ("ServerError", "features_of"), name
