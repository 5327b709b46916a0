"""Running what may block for ever beside the event loop. What is run, and what its outcome means, is the caller's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run in a daemon thread of its own, and answer or raise what `function` does.

    A function that never returns must not keep the process from ending, nor take a thread of the loop's pool from others.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[list[T], Exception | None]] = loop.create_future()

    def settle(answer: list[T], error: Exception | None) -> None:
        if not done.done():
            done.set_result((answer, error))

    def work() -> None:
        answer: list[T] = []
        failure: Exception | None = None
        try:
            answer.append(function())
        except Exception as error:  # noqa: BLE001 - handed to the loop, raised there
            failure = error
        with suppress(RuntimeError):  # the loop has been closed meanwhile: nobody asks any more
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=work, name="load provider", daemon=True).start()
    answer, error = await done
    if error is not None:
        raise error
    return answer[0]
