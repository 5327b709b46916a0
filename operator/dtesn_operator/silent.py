"""Pods that are not ready and do not say why: when their Events are asked for, which may say it. Pure: `now` is passed in.

For each question the API server reads through all Events of a namespace, so they are few: not at once, since most pods are ready soon,
then with growing pauses, and over all resources at most so many a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST: Final = 2.0
MOST: Final = 60.0
PER_SECOND: Final = 2.0


@dataclass(slots=True)
class Turns:
    """What all resources share: when the next turn is free."""

    free: float = 0.0


@dataclass(slots=True)
class Silence:
    """Of one resource: when to ask next, None where its pods are not silent; whether that turn is its own; how often; the last answer."""

    due: float | None = None
    held: bool = False
    times: int = 0
    answer: str = ""


def over(silence: Silence) -> None:
    """No pod is silent any more."""
    silence.due, silence.held, silence.times, silence.answer = None, False, 0, ""


def ask(silence: Silence, turns: Turns, now: float) -> bool:
    """Whether to ask now. If not, the time to come again is `due`."""
    if silence.due is None:
        silence.due = now + FIRST
    if now < silence.due:
        return False
    if not silence.held:
        turn = max(now, turns.free)
        turns.free = turn + 1.0 / PER_SECOND
        if turn > now:
            silence.due, silence.held = turn, True
            return False
    silence.times += 1
    silence.due, silence.held = now + min(MOST, FIRST * 2.0**silence.times), False
    return True
