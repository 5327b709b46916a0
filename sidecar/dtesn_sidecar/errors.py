"""Every error a request can end with. An error's type carries its HTTP status, its stable code and whether to retry.

This is a leaf: batching, model and routes all raise from here, and nothing here imports them.
"""

from __future__ import annotations

from typing import ClassVar


class DTESNError(Exception):
    """Base of all errors of this package.

    `status` is the HTTP status (RFC 9110), `code` the stable machine-readable name in the problem document
    (RFC 9457), `retryable` whether the same request may succeed later, `retry_after` the seconds to wait
    before that (None: not known), and `blames_input` whether the request itself is at fault, so that neither
    the circuit breaker nor bisection need look further. Where one field of the request is at fault, `field` names
    it, with its `value` and what is `expected` there.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    blames_input: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        field: str | None = None,
        value: object = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.field = field
        self.value = value
        self.expected = expected


class InvalidInput(DTESNError):
    """A field has a wrong type or a value out of range (422). Names the field, the value and the range."""

    status = 422
    code = "invalid_input"
    blames_input = True


class MalformedBody(DTESNError):
    """The body is not what its content type says: broken JSON or invalid UTF-8 (400)."""

    status = 400
    code = "malformed_body"
    blames_input = True


class NotFound(DTESNError):
    """Unknown path or model (404)."""

    status = 404
    code = "not_found"
    blames_input = True


class RequestTooLarge(DTESNError):
    """Body, node count, depth or predicted compute beyond its bound (413)."""

    status = 413
    code = "request_too_large"
    blames_input = True


class UnsupportedMediaType(DTESNError):
    """The content type is not one this endpoint reads (415)."""

    status = 415
    code = "unsupported_media_type"
    blames_input = True


class QueueFull(DTESNError):
    """The queue has no place, or the request could not finish within its deadline (429)."""

    status = 429
    code = "queue_full"
    retryable = True


class Unavailable(DTESNError):
    """This server cannot take the request now (503)."""

    status = 503
    code = "unavailable"
    retryable = True


class BreakerOpen(Unavailable):
    """The circuit breaker is open, and direct processing is too (503)."""

    code = "breaker_open"


class Draining(Unavailable):
    """The server is shutting down (503)."""

    code = "draining"


class BuildQueueFull(Unavailable):
    """Too many model builds are queued (503)."""

    code = "build_queue_full"


class OutOfMemory(Unavailable):
    """The batch did not fit into memory (503 once the cap cannot shrink further)."""

    code = "out_of_memory"


class WorkerLost(Unavailable):
    """The compute worker died or hung; treated like out-of-memory (503 when it repeats)."""

    code = "worker_lost"


class DeadlineExceeded(DTESNError):
    """The deadline passed before the answer was ready (504).

    `spent`, of one that was accepted: seconds queued, seconds computing, items of its batch (0: none) and why that was closed.
    """

    status = 504
    code = "deadline_exceeded"
    retryable = True
    spent: tuple[float, float, int, str] | None = None


class ComputeFailed(DTESNError):
    """This request alone failed in compute (500)."""

    status = 500
    code = "compute_failed"
