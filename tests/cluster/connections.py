"""Connections to an API server that are kept: what is looked at again and again need not shake hands each time."""

from __future__ import annotations

import ssl
import weakref
from collections import deque
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit


class Connections:
    """To one server, for any number of threads. They are closed when nobody has this any more."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._place, self._tls = urlsplit(url), tls
        self._idle: deque[HTTPConnection] = deque()
        weakref.finalize(self, _close, self._idle)

    def ask(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
        """Status and body of an answer. Raises OSError where nothing answers.

        A GET goes over a kept connection, and over a new one where the server has ended that. Whatever changes something goes over a new
        one, and once.
        """
        while method == "GET" and self._idle:
            try:
                return self._over(self._idle.pop(), method, target, body, headers, timeout)
            except TimeoutError:
                raise
            except (OSError, IndexError):  # ended meanwhile, or taken by another thread
                continue
        return self._over(self._new(), method, target, body, headers, timeout)

    def _new(self) -> HTTPConnection:
        host, port = str(self._place.hostname), self._place.port
        return HTTPSConnection(host, port, context=self._tls) if self._place.scheme == "https" else HTTPConnection(host, port)

    def _over(
        self, connection: HTTPConnection, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes]:
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        try:
            connection.request(method, target, body, dict(headers))
            answer = connection.getresponse()
            found = answer.status, answer.read()
        except HTTPException as error:
            connection.close()
            raise ConnectionError(f"{method} {target}: {error!r}") from error
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return found


def _close(idle: deque[HTTPConnection]) -> None:
    for connection in idle:
        connection.close()
