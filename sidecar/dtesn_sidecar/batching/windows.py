"""When a free device takes what is in hand and when it is held for more, and how fast requests arrive.

The window opens when the first request arrives and only permits dispatch. Pure decisions: `now` is passed in.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

PEAK_SPAN = 1.0
PEAK_SLOTS = 10
RATE_SPAN = 0.5
"""Time constant of the arrival rate in seconds of computing or of open windows."""

PATIENCE = 3.0
"""Mean gaps between arrivals; one in twenty Poisson gaps is longer."""


RETURNING_SHARE = 0.1
"""Of a batch's seconds: so much of them is worth waiting for clients who would otherwise fill every other batch alone."""


class Close(msgspec.Struct, frozen=True):
    """Dispatch now."""

    reason: str


class Hold(msgspec.Struct, frozen=True):
    """Look again at `until`, or once `items` are in hand."""

    until: float
    items: int


Decision = Close | Hold


class WindowView(msgspec.Struct, frozen=True):
    """What the decision looks at, with a device free and something in hand.

    `in_hand` requests, the oldest since `opened`; `held_since`: the device is free and something is in hand
    since then; `places`: the most that this batch takes; `peak`: highest concurrency of the last second;
    `computing`: items in other devices; `returning`: how many of those just answered are expected to ask again
    within the `shortest` wait; `rate`: arrivals per second during compute or open windows; `batch_seconds` and
    `per_item_seconds`: predicted compute of what is in hand, and of one item more; `latest`: when this batch must start
    for its tightest deadline.
    """

    now: float
    in_hand: int
    opened: float
    held_since: float
    last_arrival: float
    places: int
    peak: int
    computing: int
    returning: float
    rate: float
    batch_seconds: float
    per_item_seconds: float
    shortest: float
    window: float
    latest: float
    draining: bool


def returning_span(batch_seconds: float, *, shortest: float, longest: float) -> float:
    """Seconds within which clients that were answered are expected back: the shortest window, or a tenth of a batch that takes longer.

    Never beyond the longest window. Many clients of one server come back one after the other; after a long batch, those missed
    would make up the next, alternating with the others, where all fit into one.
    """
    return min(max(shortest, RETURNING_SHARE * batch_seconds), longest)


def always_closed(view: WindowView) -> Close | None:
    """The reasons that no strategy may overrule: draining, every place taken, or a deadline near."""
    if view.draining:
        return Close("drain")
    if view.in_hand >= view.places:
        return Close("full")
    if view.now >= view.latest:
        return Close("deadline")
    return None


def hold_for_returning(view: WindowView) -> Hold | None:
    """Held for clients that were just answered and ask again: for `shortest` at most (the shortest window, or `returning_span`).

    Only while (peak concurrency of the last second - computing) exceeds what is in hand, and only as long as they
    do come: a gap of a quarter of that ends it.
    """
    expected = min(view.peak - view.computing, math.ceil(view.returning + view.in_hand - 0.5), view.places)
    if expected <= view.in_hand:
        return None
    until = min(view.held_since + view.shortest, max(view.last_arrival, view.held_since) + view.shortest / 4, view.latest)
    return Hold(until, expected) if until > view.now else None


def hold_for_arrivals(view: WindowView) -> Hold | None:
    """Held while more arrive during the compute than are in hand (rate * T(n) > n), for at most the window.

    A gap of PATIENCE mean gaps ends it: the rate that it was held for is over.
    """
    if view.rate * view.batch_seconds <= view.in_hand:
        return None
    until = min(view.opened + view.window, max(view.last_arrival, view.held_since) + PATIENCE / view.rate, view.latest)
    if until <= view.now:
        return None
    slope = 1.0 - view.rate * view.per_item_seconds  # n where rate * T(n) = n
    fixed = view.batch_seconds - view.per_item_seconds * view.in_hand
    enough = view.places if slope <= 0.0 else min(view.places, math.ceil(view.rate * fixed / slope))
    return Hold(until, max(enough, view.in_hand + 1))


def hold_for_size(view: WindowView) -> Hold | None:
    """Held until every place is taken or the window, opened by the oldest, has passed."""
    until = min(view.opened + view.window, view.latest)
    return Hold(until, view.places) if until > view.now else None


class PeakConcurrency:
    """The highest concurrency of the last second, in tenths."""

    __slots__ = ("_current", "_slots")

    def __init__(self) -> None:
        self._slots: deque[tuple[int, int]] = deque(maxlen=PEAK_SLOTS + 1)
        self._current = 0

    def observe(self, concurrency: int, now: float) -> None:
        """Note the concurrency, at every change of it."""
        slot = int(now * PEAK_SLOTS / PEAK_SPAN)
        if self._slots and self._slots[-1][0] == slot:
            if concurrency > self._slots[-1][1]:
                self._slots[-1] = (slot, concurrency)
        else:
            self._slots.append((slot, max(concurrency, self._current)))
        self._current = concurrency

    def peak(self, now: float) -> int:
        """The highest in the last second."""
        oldest = int(now * PEAK_SLOTS / PEAK_SPAN) - PEAK_SLOTS
        return max(self._current, *(value for slot, value in self._slots if slot >= oldest), 0)


class ArrivalRate:
    """lambda: arrivals per second, counted during compute or an open window alone.

    The gap between an answer and its client's next request is no part of it, and neither is the arrival that
    ends the gap: so a lone client has a rate of 0 and never waits for nobody.
    """

    __slots__ = ("_count", "_since", "_time")

    def __init__(self) -> None:
        self._count = 0.0
        self._time = 0.0
        self._since = 0.0

    def advance(self, now: float, *, open_: bool) -> None:
        """Let the time since the last call pass, during which something was queued or computing if `open_`."""
        elapsed = now - self._since
        self._since = now
        if open_ and elapsed > 0.0:
            kept = math.exp(-elapsed / RATE_SPAN)
            self._count *= kept
            self._time = self._time * kept + RATE_SPAN * (1.0 - kept)

    def arrived(self) -> None:
        """One request came while something was queued or computing."""
        self._count += 1.0

    @property
    def per_second(self) -> float:
        """The rate; 0 before a tenth of the span has been observed (few arrivals say little)."""
        return self._count / max(self._time, RATE_SPAN / 10)


class Returning:
    """What share of answered clients ask again within the shortest window (1: closed loop, 0: open loop)."""

    __slots__ = ("_answered", "_arrived", "_rate", "_until", "share")

    def __init__(self) -> None:
        self.share = 1.0
        self._answered = 0
        self._arrived = 0
        self._until = 0.0
        self._rate = 0.0

    def answered(self, count: int, rate: float, span: float, now: float) -> None:
        """A batch of `count` was answered; arrivals up to `now + span` may be theirs."""
        if now < self._until:  # two devices answer close together: count them as one
            self._answered += count
            return
        self._learn(span)
        self._answered, self._arrived, self._until, self._rate = count, 0, now + span, rate

    def arrived(self, now: float) -> None:
        """One request came."""
        if now < self._until:
            self._arrived += 1

    def expected(self, now: float) -> float:
        """How many more are expected of those answered last; 0 after the span."""
        return max(0.0, self.share * self._answered - self._arrived) if now < self._until else 0.0

    def _learn(self, span: float) -> None:
        if self._answered:
            strangers = self._rate * span * (1.0 - self.share)  # in a closed loop all who come were answered before
            own = max(0.0, self._arrived - strangers) / self._answered
            self.share += 0.2 * (min(1.0, own) - self.share)
