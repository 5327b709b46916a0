"""The log: one JSON object or one readable line per record, on standard error, with nothing in it unescaped.

Records of the `logging` module are few and written at once. Access lines are many: they are collected on the event
loop and written by a thread a few times a second, so that a slow reader of the log never stops the server.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, TextIO

import orjson

if TYPE_CHECKING:
    import asyncio

LOGGER = logging.getLogger("dtesn_sidecar")
FLUSH_SECONDS = 0.2
MAX_WAITING = 65_536  # lines that wait for the writer; beyond, they are counted and dropped

_FIRST = ("time", "level", "message")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
_LEFT_BY_JSON = {code: escape for code, escape in _ESCAPES.items() if code >= 0x7F}


def escaped(text: str) -> str:
    """The text on one line: control characters and line separators written as escapes, lone surrogates replaced."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole = int(seconds)
    return f"{_second(whole)}.{int(1000 * (seconds - whole)):03d}Z"


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def json_line(fields: Mapping[str, object]) -> bytes:
    """One JSON object on one line; absent values are left out."""
    return orjson.dumps({key: value for key, value in fields.items() if value is not None}, option=orjson.OPT_APPEND_NEWLINE)


def text_line(fields: Mapping[str, object]) -> bytes:
    """Time, level and message, then `key=value`, on one line; absent values are left out."""
    words = [escaped(str(fields[key])) for key in _FIRST if key in fields]
    words += [f"{key}={escaped(str(value))}" for key, value in fields.items() if value is not None and key not in _FIRST]
    return " ".join(words).encode() + b"\n"


LINES: Mapping[str, Callable[[Mapping[str, object]], bytes]] = {"json": json_line, "text": text_line}


class LineFormatter(logging.Formatter):
    """A record as one line of either form. Tracebacks are one escaped field."""

    def __init__(self, line: Callable[[Mapping[str, object]], bytes]) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "message": _clean(record.getMessage()),
            "logger": record.name,
        }
        if record.exc_info:
            fields["traceback"] = _clean(self.formatException(record.exc_info))
        return self._line(fields).decode().rstrip("\n")


def _clean(text: str) -> str:
    """Without what orjson refuses (lone surrogates), or leaves as it is though a terminal or a reader of lines does not."""
    return text.translate(_LEFT_BY_JSON).encode("utf-8", "backslashreplace").decode()


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send this package's records, those of libraries that have some, and warnings, to the stream (standard error) in the given form."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(LINES[form]))
    logging.captureWarnings(True)
    for name in ("dtesn_sidecar", "aiohttp", "asyncio", "opentelemetry", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper() if name == "dtesn_sidecar" else max(logging.WARNING, logging.getLevelName(level.upper())))


class AccessLog:
    """One line for each request, written in the background.

    `write` takes bytes (it may block; it runs in a thread). Lines that wait beyond `MAX_WAITING` are dropped, and
    their number is written in their place. `close` writes what is left and ends the thread.
    """

    def __init__(self, form: str, loop: asyncio.AbstractEventLoop, write: Callable[[bytes], object] | None = None) -> None:
        self._line = LINES[form]
        self._loop = loop
        self._write = write or _to_stderr
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: SimpleQueue[bytes | None] = SimpleQueue()
        self._waiting = 0  # lines handed to the thread and not written yet; changed under the lock
        self._lock = threading.Lock()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def add(self, fields: Mapping[str, object]) -> None:
        """Add a line. Call on the event loop."""
        if len(self._lines) + self._waiting >= MAX_WAITING:
            self._dropped += 1
            return
        self._lines.append(self._line(fields))
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def close(self, wait: float = 2.0) -> None:
        """Write what is left, waiting at most so many seconds for a reader that is stuck."""
        self._flush()
        self._chunks.put(None)
        self._thread.join(wait)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dropped:
            fields = {"time": timestamp(time.time()), "level": "warning", "message": "access lines dropped", "lines": self._dropped}
            self._lines.append(self._line(fields))
            self._dropped = 0
        if self._lines:
            chunk, count = b"".join(self._lines), len(self._lines)
            self._lines = []
            with self._lock:
                self._waiting += count
            self._chunks.put(chunk)

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            try:
                self._write(chunk)
            except OSError:  # nobody reads the log any more: there is nowhere left to say so
                pass
            finally:
                with self._lock:
                    self._waiting -= chunk.count(b"\n")


def _to_stderr(chunk: bytes) -> None:
    sys.stderr.buffer.write(chunk)
    sys.stderr.buffer.flush()
