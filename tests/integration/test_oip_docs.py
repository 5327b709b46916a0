"""What docs/open-inference-protocol.md shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tests.integration.http_server import LONG
from tests.integration.oip import running_rpc

pytestmark = pytest.mark.timeout(300)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "open-inference-protocol.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```(sh|python)\n((?:(?!```).)*)```\n```(?:json|text)\n((?:(?!```).)*)\n```", PAGE, re.DOTALL)
CURL = re.compile(r"curl -s (?P<url>\S+)(?: -d '(?P<body>[^']*)')?(?: \| head -c (?P<most>\d+))?\n")
DEFAULTS = {"DTESN_MODEL_ESN_SIZE": "512", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}


@pytest.fixture(scope="module")
def addresses() -> Iterator[tuple[str, str]]:
    with running_rpc(DEFAULTS) as (server, rpc):
        yield f"127.0.0.1:{server.port}", rpc


@pytest.mark.parametrize(("language", "program", "printed"), SHOWN)
def test_what_is_shown_is_what_is_printed(addresses: tuple[str, str], language: str, program: str, printed: str) -> None:
    for shown, real in zip(("localhost:8080", "localhost:8001"), addresses, strict=True):
        program = program.replace(shown, real)
    assert (curl if language == "sh" else python)(program).strip() == printed.strip()


def curl(command: str) -> str:
    """What that curl prints; curl itself is not on every machine."""
    match = CURL.fullmatch(command)
    assert match, command
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl -d sends
    url, body = f"http://{match['url']}", match["body"]
    answer = requests.get(url, timeout=LONG) if body is None else requests.post(url, body.encode(), headers=headers, timeout=LONG)
    return answer.text if match["most"] is None else answer.text[: int(match["most"])]


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_that_prints_is_shown_with_what_it_prints() -> None:
    assert [language for language, _, _ in SHOWN] == ["sh", "sh", "sh", "python"]
