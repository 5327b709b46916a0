"""The loop over the attempts of one call. What follows a failed one is decided in `retries.py`; what an attempt does is the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias, TypeVar

from dtesn_sidecar.client.errors import ConnectionFailed, ServerError, TimedOut
from dtesn_sidecar.client.retries import Broken, Budget, Failure, GiveUp, Hopeless, Refused, RetryPolicy, Status, decide

T = TypeVar("T")
Attempt: TypeAlias = Callable[[float | None], Awaitable[T]]
"""Seconds left (None: no bound) -> the outcome."""


async def call(
    attempt: Attempt[T],
    *,
    policy: RetryPolicy,
    budget: Budget,
    slots: asyncio.Semaphore,
    deadline: float | None,
    random_share: Callable[[], float],
    stays: AsyncExitStack | None = None,
) -> T:
    """The outcome of `attempt`, made again as the policy says; `deadline` on the loop's clock bounds all of it.

    An attempt holds one of `slots`, a pause does not; `stays` takes over the slot of an outcome that is still to be read. Raises the
    last attempt's ServerError or ConnectionFailed, or TimedOut.
    """
    now = asyncio.get_running_loop().time
    began, attempts = now(), 0
    last: ServerError | ConnectionFailed | None = None
    budget.called()
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                try:
                    async with AsyncExitStack() as slot:
                        await slot.enter_async_context(slots)
                        attempts += 1
                        outcome = await attempt(_left(deadline, now()))
                        if stays is not None:
                            stays.push_async_callback(slot.pop_all().aclose)
                        return outcome
                except (ServerError, ConnectionFailed) as error:
                    error.attempts, last = attempts, error
                    decision = decide(
                        policy,
                        _failure(error),
                        attempt=attempts,
                        elapsed=now() - began,
                        left=_left(deadline, now()),
                        tokens=budget.tokens,
                        jitter=random_share(),
                    )
                    if isinstance(decision, GiveUp):
                        error.add_note(f"not tried again: {decision.reason}")
                        raise
                    budget.retried(decision.cost)
                await asyncio.sleep(decision.after)
    except TimeoutError as error:
        late = TimedOut(f"no answer within {now() - began:.3g} s, after {attempts} attempts")
        late.attempts = attempts
        cause: Exception = error if last is None else last
        raise late from cause


def _left(deadline: float | None, now: float) -> float | None:
    return None if deadline is None else deadline - now


def _failure(error: ServerError | ConnectionFailed) -> Failure:
    if isinstance(error, ServerError):
        return Status(error.status, error.retry_after)
    return Hopeless() if error.final else Broken() if error.sent else Refused()
