"""Work in the background that must go on as long as the server does. What it is, is not known here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 5.0


async def kept_going(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run it to its end. Where it raises, that is logged and it is run again, after a pause, for as long as it takes.

    A task that nobody awaits would die without a word.
    """
    while True:
        try:
            return await run()
        except Exception:  # whatever it is, the task must not die without a word; a test shows it
            log.exception("%s broke off and is begun anew in %g s", what, _AGAIN_SECONDS)
        await asyncio.sleep(_AGAIN_SECONDS)
