"""Log lines: one per record, nothing unescaped, none lost in silence, none holding up the loop."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar import logs
from dtesn_sidecar.logs import AccessLog, escaped, json_line, set_up, text_line, timestamp

ANY_TEXT = st.text(st.characters())
NAMES = st.sampled_from(["time", "level", "message", "a", "b"])


@given(ANY_TEXT)
def test_escaped_text_is_one_line_without_control_characters(text: str) -> None:
    line = escaped(text)
    assert len(line.splitlines()) <= 1
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in line)
    line.encode()


@given(st.dictionaries(NAMES, st.one_of(st.none(), ANY_TEXT, st.integers(-9, 9)), min_size=1))
def test_a_text_line_is_one_line_whatever_it_holds(fields: dict[str, object]) -> None:
    assert text_line(fields).count(b"\n") == 1


def test_a_json_line_leaves_out_what_is_absent() -> None:
    assert json.loads(json_line({"a": 1, "b": None, "c": "x\ny"})) == {"a": 1, "c": "x\ny"}
    assert json_line({"a": "x\ny"}).count(b"\n") == 1


@pytest.mark.parametrize(("seconds", "text"), [(0, "1970-01-01T00:00:00.000Z"), (1_700_000_000.5, "2023-11-14T22:13:20.500Z")])
def test_times_are_rfc_3339_in_utc(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


@pytest.fixture
def restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("dtesn_sidecar", "aiohttp", "asyncio", "py.warnings")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, handlers, propagate, level in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_record_with_a_traceback_is_one_line(form: str) -> None:
    stream = io.StringIO()
    set_up("info", form, stream)
    try:
        raise ValueError("evil\n\x1b[31mline \ud800")
    except ValueError:
        logging.getLogger("dtesn_sidecar.x").exception("failed on %s", "a\nb")
    logging.getLogger("dtesn_sidecar.x").debug("not at this level")
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    if form == "json":
        record = json.loads(line)
        assert record["message"] == "failed on a\nb"
        assert "ValueError" in record["traceback"]


async def test_lines_are_written_in_order_and_all_of_them_at_the_close() -> None:
    written: list[bytes] = []
    log = AccessLog("json", asyncio.get_running_loop(), written.append)
    for number in range(100):
        log.add({"n": number})
    await asyncio.to_thread(log.close)
    assert [json.loads(line)["n"] for line in b"".join(written).splitlines()] == list(range(100))


async def test_a_reader_that_is_stuck_neither_holds_up_the_server_nor_fills_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    let_go, written = threading.Event(), []

    def write(chunk: bytes) -> None:
        assert let_go.wait(250)
        written.append(chunk)

    log = AccessLog("json", asyncio.get_running_loop(), write)
    for number in range(1000):
        log.add({"n": number})
    let_go.set()
    await asyncio.to_thread(log.close)
    lines = [json.loads(line) for line in b"".join(written).splitlines()]
    assert len(lines) == 11
    assert lines[-1]["message"] == "access lines dropped"
    assert lines[-1]["lines"] == 990


async def test_a_log_that_nobody_reads_any_more_is_no_error() -> None:
    def write(_chunk: bytes) -> None:
        raise BrokenPipeError

    log = AccessLog("text", asyncio.get_running_loop(), write)
    log.add({"n": 1})
    await asyncio.to_thread(log.close)
