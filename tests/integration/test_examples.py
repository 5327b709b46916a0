"""The programs in `examples/` run as they stand and use what they say they show."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dtesn_sidecar

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> str:
    """The program's output; it must end well and warn of nothing."""
    done = subprocess.run([sys.executable, "-W", "error", "-X", "dev", str(EXAMPLES / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Development mode warns of turns of the event loop beyond 100 ms, which a busy machine makes of any.
    warned = [line for line in done.stderr.splitlines() if not (line.startswith("Executing <") and line.endswith(" seconds"))]
    assert warned == []
    return done.stdout


def test_the_plain_program_computes_batches_and_refuses_as_it_says() -> None:
    output = run("plain_asyncio.py")
    assert "summary of 10 nodes" in output
    assert "a bulk call: ['success', 'success', 'success']" in output
    assert "refused: input_data has 5000 nodes, at most 4096 are allowed" in output
    assert "many: [0, 1, 4, 9, 16, 25, 36, 49]" in output
    assert "its own failure: not a number" in output


def test_the_examples_use_every_exported_name() -> None:
    used: set[str] = set()
    for program in EXAMPLES.glob("*.py"):
        tree = ast.parse(program.read_text())
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "dtesn_sidecar"]
        imported = {alias.name for node in froms for alias in node.names}
        used |= imported & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used >= set(dtesn_sidecar.__all__)


def test_a_strategy_and_a_calculator_of_ones_own_are_in_force() -> None:
    output = run("own_strategy.py")
    assert "lengths: [3, 5, 5, 6]" in output
    assert "pairs: " in output
    assert "improvement None" in output
    batches = next(line for line in output.splitlines() if line.startswith("batches of"))
    assert max(ast.literal_eval(batches.removeprefix("batches of "))) == 2


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, dtesn_sidecar; print([name for name in ('numpy', 'msgspec', 'aiohttp', 'asyncio') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_exported_name_can_be_imported_and_listed() -> None:
    for name in dtesn_sidecar.__all__:
        assert getattr(dtesn_sidecar, name).__name__ == name
    assert set(dtesn_sidecar.__all__) <= set(dir(dtesn_sidecar))
    with pytest.raises(AttributeError):
        _ = dtesn_sidecar.Missing
