"""`DTESNClient`: the calls, each under one deadline and one retry policy.

What goes over the wire once is `transport.py`; the loop over attempts is `attempts.py`, and whether there is another `retries.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import UNSET, UnsetType

from dtesn_api.names import MEDIA_JSON, MEDIA_NDJSON
from dtesn_api.wire import BatchItem, BatchMetricsResponse, HealthResponse, InputFormat, Output, ProcessResponse
from dtesn_sidecar.client.attempts import Attempt, call
from dtesn_sidecar.client.errors import BadAnswer, TimedOut
from dtesn_sidecar.client.retries import Budget, RetryPolicy
from dtesn_sidecar.client.transport import lines, read, request, session

T = TypeVar("T")
Timeout: TypeAlias = float | UnsetType | None

_WAY_BACK: Final = 0.05  # share of the time left (at most `_LONGEST_WAY_BACK` seconds) that a server's answer has for its way here
_LONGEST_WAY_BACK: Final = 0.25


class Options(TypedDict, total=False):
    """What a request may say beside its input; what is left out is the server's default."""

    input_format: InputFormat
    membrane_depth: int
    esn_size: int
    priority: int
    model: str
    output: Output


class DTESNClient:
    """Calls one sidecar (or a Service before several). Use it with `async with`, or end it with `aclose()`; one per event loop.

    `timeout` in seconds is each call's default: it covers waiting for a connection, every attempt and the pauses between them, and the
    server is told what is left of it (None: no bound). At most `max_concurrency` requests are under way at once, over connections
    that are kept; `connect_timeout` bounds the making of one. Answers of more than `max_answer_bytes` (a stream: lines) are an
    error. `headers` go with every request. `random_share` (in [0, 1)) is what pauses are drawn with.

    Every method raises ServerError (its subclasses by status), ConnectionFailed, TimedOut or BadAnswer; all are ClientError.
    Cancelling a call closes its request, and the server withdraws it from its queue.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None = 60.0,
        retries: RetryPolicy | None = None,
        max_concurrency: int = 64,
        connect_timeout: float = 5.0,
        max_answer_bytes: int = 1 << 27,
        headers: Mapping[str, str] | None = None,
        ssl: SSLContext | None = None,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}, must be an http or https URL such as http://localhost:8080")
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency!r}, must be at least 1")
        self._url = url.rstrip("/")
        self._timeout, self._most = _seconds(timeout), max_answer_bytes
        self.retries = retries if retries is not None else RetryPolicy()
        self._budget = Budget(self.retries)
        self._slots = asyncio.Semaphore(max_concurrency)
        self._random = random_share
        self._session: aiohttp.ClientSession | None = None
        self._open = partial(session, max_concurrency, connect_timeout, headers, ssl)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Idempotent; a later call opens new ones."""
        http, self._session = self._session, None
        if http is not None:
            await http.close()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def process(
        self,
        input_data: object,
        *,
        timeout: Timeout = UNSET,  # noqa: ASYNC109 - it covers several attempts, and the server is told of it
        enable_batching: bool = True,
        **options: Unpack[Options],
    ) -> ProcessResponse:
        """The answer to one input: a text, a series (lists or a NumPy array), or a tree (see the input formats).

        `timeout` in seconds; left out: the client's; None: none. With `output="features"`, `features_of` and `features_array`
        give the features their shape.
        """
        given = {"input_data": msgspec.Raw(_encode(input_data)), "enable_batching": enable_batching, **options}

        async def attempt(left: float | None) -> ProcessResponse:
            return await self._post("/dtesn/process_with_batching", _told(given, left), ProcessResponse)

        return await self._call(attempt, self._deadline(timeout))

    async def process_batch(
        self,
        inputs: Sequence[object],
        *,
        timeout: Timeout = UNSET,  # noqa: ASYNC109
        enable_load_balancing: bool = True,
        **options: Unpack[Options],
    ) -> list[BatchItem]:
        """The outcomes of many inputs, in their order, each with its own status: `result_of` gives its result or raises its error."""
        stream = self.stream_batch(inputs, timeout=timeout, enable_load_balancing=enable_load_balancing, **options)
        return [item async for item in stream]

    async def stream_batch(
        self,
        inputs: Sequence[object],
        *,
        timeout: Timeout = UNSET,  # noqa: ASYNC109
        enable_load_balancing: bool = True,
        **options: Unpack[Options],
    ) -> AsyncGenerator[BatchItem, None]:
        """As `process_batch`, each outcome as soon as it and those before it are there. Tried again only before the first.

        Whoever stops early should close it (`contextlib.aclosing`); the server then withdraws the rest.
        """
        given = {"inputs": msgspec.Raw(_encode(list(inputs))), "enable_load_balancing": enable_load_balancing, **options}
        deadline = self._deadline(timeout)
        received = 0
        async with AsyncExitStack() as stack:

            async def attempt(left: float | None) -> aiohttp.ClientResponse:
                async with AsyncExitStack() as opening:
                    url = f"{self._url}/dtesn/batch_process"
                    body = _encode(_told(given, left))
                    response = await opening.enter_async_context(request(self._http, "POST", url, body, accept=MEDIA_NDJSON))
                    stack.push_async_exit(opening.pop_all())
                    return response

            response = await self._call(attempt, deadline, stays=stack)
            async with aclosing(lines(response, self._most)) as rows:
                while (line := await _next(rows, deadline)) is not None:
                    yield _decode(line, BatchItem)
                    received += 1
        if received != len(inputs):
            raise BadAnswer(f"the answer holds {received} outcomes of {len(inputs)} inputs")

    async def batch_metrics(self, *, timeout: Timeout = UNSET) -> BatchMetricsResponse:  # noqa: ASYNC109
        """How batching does, and the server's load by source."""

        async def attempt(_left: float | None) -> BatchMetricsResponse:
            return await self._get("/dtesn/batch_metrics", BatchMetricsResponse)

        return await self._call(attempt, self._deadline(timeout))

    async def ready(self, *, timeout: Timeout = UNSET) -> HealthResponse:  # noqa: ASYNC109
        """Whether requests should be sent there; `status` is "ok" or "unavailable", with the reasons. Asked once."""
        return await self._health("/readyz", timeout)

    async def health(self, *, timeout: Timeout = UNSET) -> HealthResponse:  # noqa: ASYNC109
        """Whether the server is worth keeping; `status` is "ok" or "unavailable", with the reasons. Asked once."""
        return await self._health("/healthz", timeout)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _health(self, path: str, timeout: Timeout) -> HealthResponse:  # noqa: ASYNC109
        try:
            async with asyncio.timeout_at(self._deadline(timeout)), self._slots:
                return await self._get(path, HealthResponse, statuses=(200, 503))
        except TimeoutError as error:
            raise TimedOut(f"{path} was not answered in time") from error

    async def _call(self, attempt: Attempt[T], deadline: float | None, *, stays: AsyncExitStack | None = None) -> T:
        return await call(
            attempt,
            policy=self.retries,
            budget=self._budget,
            slots=self._slots,
            deadline=deadline,
            random_share=self._random,
            stays=stays,
        )

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._open()
        return self._session

    def _deadline(self, timeout: Timeout) -> float | None:
        seconds = self._timeout if timeout is UNSET else _seconds(timeout)
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def _post(self, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        async with request(self._http, "POST", self._url + path, _encode(body)) as response:
            return _decode(await read(response, self._most), kind)

    async def _get(self, path: str, kind: type[T], *, statuses: tuple[int, ...] = (200,)) -> T:
        async with request(self._http, "GET", self._url + path, None, accept=MEDIA_JSON, statuses=statuses) as response:
            return _decode(await read(response, self._most), kind)


def _seconds(timeout: float | None) -> float | None:
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ValueError(f"timeout is {timeout!r}, must be a finite number of seconds above 0, or None")
    return timeout


def _told(given: Mapping[str, object], left: float | None) -> dict[str, object]:
    """The body with the server's share of the time that is left: a little less, so that its 504 is here before our own deadline."""
    if left is None:
        return dict(given)
    return {**given, "timeout": left - min(_LONGEST_WAY_BACK, _WAY_BACK * left)}


async def _next(rows: AsyncGenerator[bytes, None], deadline: float | None) -> bytes | None:
    """The next line, or None at the end."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(rows, None)
    except TimeoutError as error:
        raise TimedOut("the deadline passed in the middle of the answer") from error


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """NumPy's arrays and numbers as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"no input: {type(value).__name__}")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"the answer is no {kind.__name__}: {error}") from error
