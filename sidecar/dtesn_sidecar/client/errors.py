"""What a call can end with besides an answer, and how a server's problem document (RFC 9457) becomes an exception.

Whether a call is made again is `retries.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec
from msgspec import UNSET

from dtesn_api.problems import Problem
from dtesn_api.wire import ProblemDocument

_SHOWN: Final = 200  # characters of an answer that is no problem document


class ClientError(Exception):
    """Base of all errors of this client. `attempts` is how often the request was made."""

    attempts: int = 0


class ServerError(ClientError):
    """The server answered with an error.

    `status` is the HTTP status; `code` the problem's stable name (`http_STATUS` where a proxy answered in the server's place);
    `detail` the sentence for people; `field`, `value` and `expected` say what is wrong with the request, where one field is;
    `problems` has every field at fault, where there are several; `retry_after` is in seconds (None: not told);
    `request_id` finds the request in the server's log.
    """

    def __init__(self, status: int, document: ProblemDocument, retry_after: float | None) -> None:
        super().__init__(f"{status} {document.code}: {document.detail}")
        self.status = status
        self.code = document.code
        self.detail = document.detail
        self.field: str | None = None if document.field is UNSET else document.field
        self.value: object = None if document.value is UNSET else document.value
        self.expected: str | None = None if document.expected is UNSET else document.expected
        self.problems: list[Problem] = [] if document.errors is UNSET else document.errors
        self.request_id: str | None = None if document.instance is UNSET else document.instance
        self.retry_after = retry_after


class BadRequest(ServerError):
    """The request itself is at fault (4xx); the same request will fail again."""


class InvalidInput(BadRequest):
    """A field has a wrong type, is unknown, or is out of range (422)."""


class NotFound(BadRequest):
    """There is no such model or path (404)."""


class RequestTooLarge(BadRequest):
    """Body, nodes, depth or predicted compute beyond the server's bound (413)."""


class Overloaded(ServerError):
    """The queue is full, or the request could not be answered within its deadline (429)."""


class Unavailable(ServerError):
    """The server starts, drains, or its breaker is open (503)."""


class DeadlineExceeded(ServerError):
    """The server gave up at the deadline that the request carried (504)."""


class ServerFailed(ServerError):
    """The server failed at this request (500 and other 5xx)."""


class ConnectionFailed(ClientError):
    """No whole answer came. `sent` is False where the connection was never made, so that no server can have seen the request.

    `final`: another attempt would end the same (a certificate that is not trusted).
    """

    def __init__(self, detail: str, *, sent: bool, final: bool = False) -> None:
        super().__init__(detail)
        self.sent = sent
        self.final = final


class TimedOut(ClientError, TimeoutError):
    """The call's own deadline passed. The last attempt's error, where there was one, is its cause."""


class BadAnswer(ClientError):
    """The answer is not what the API promises: a foreign server, or a body beyond the bound."""


_BY_STATUS: Final[dict[int, type[ServerError]]] = {
    404: NotFound,
    413: RequestTooLarge,
    422: InvalidInput,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}


def server_error(status: int, body: bytes, retry_after_header: str | None = None) -> ServerError:
    """The exception of an answer whose status is an error."""
    try:
        document = msgspec.json.decode(body, type=ProblemDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body[: 4 * _SHOWN].decode("utf-8", "replace")[:_SHOWN].strip()
        document = ProblemDocument(title="", status=status, code=f"http_{status}", detail=text or "no body")
    told = None if document.retry_after is UNSET else float(document.retry_after)
    return of_document(document, status, seconds_of(retry_after_header) if told is None else told)


def of_document(document: ProblemDocument, status: int | None = None, retry_after: float | None = None) -> ServerError:
    """The exception of a problem document, such as that of one input of a bulk call."""
    status = document.status if status is None else status
    if retry_after is None and document.retry_after is not UNSET:
        retry_after = float(document.retry_after)
    kind = _BY_STATUS.get(status, BadRequest if status < 500 else ServerFailed)
    return kind(status, document, retry_after)


def seconds_of(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110: a number of seconds or a date); None where it cannot be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:18])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
