"""Whether a request is accepted, and if not, when to come back. Pure; the caller gathers the outlook."""

from __future__ import annotations

import math

import msgspec

DEADLINE_SHARE = 0.9
"""A predicted finish beyond this share of the deadline is refused: predictions err."""

JITTER = 0.25

OVERRUN_QUANTILE = 0.95
OVERRUN_STEP = 0.005
OVERRUN_MOST = 1.5
OVERRUN_FROM = 0.5
"""Predictions below this share of the deadline say nothing about those that admission turns on."""


class Outlook(msgspec.Struct, frozen=True):
    """What lies between a new request and its answer. Times in seconds.

    `rest` until the next device is free (0: one is), `devices` batches at once, `limit` items per batch, `ahead_items`
    queued at or before its key with `ahead_fixed` and `ahead_marginal` predicted seconds of levels and nodes,
    `ahead_direct` of them batches of one, `spread`: what the levels of a batch take over the mean of its items (>= 1),
    `rate`: arrivals per second, `fixed` and `marginal` of the request itself, `alone`: it is a batch of one.
    """

    rest: float
    devices: int
    limit: int
    ahead_items: int
    ahead_fixed: float
    ahead_marginal: float
    spread: float
    rate: float
    fixed: float
    marginal: float
    alone: bool = False
    ahead_direct: int = 0


def wait_ahead(view: Outlook) -> float:
    """Seconds until the batch of the next request starts: the running rest, then the batches before it.

    A request that may share a batch waits for the full ones; one that runs alone waits for all.
    """
    items = view.ahead_items
    if items == 0:
        return view.rest
    shared = items - view.ahead_direct
    batches = -(-shared // view.limit) if view.alone else shared // view.limit
    mean_fixed, mean_marginal = view.ahead_fixed / items, view.ahead_marginal / items
    full = (view.spread if view.limit > 1 else 1.0) * mean_fixed + min(view.limit, shared) * mean_marginal
    return view.rest + (batches * full + view.ahead_direct * (mean_fixed + mean_marginal)) / view.devices


def finish(view: Outlook) -> float:
    """Predicted seconds until its answer: the wait, then its own batch, with those ahead in it and those to come."""
    wait = wait_ahead(view)
    if view.alone or view.limit <= 1:
        return wait + view.fixed + view.marginal
    before = (view.ahead_items - view.ahead_direct) % view.limit
    count = min(view.limit - 1, before + view.rate * wait)
    mean_fixed = view.ahead_fixed / view.ahead_items if view.ahead_items else view.fixed
    mean_marginal = view.ahead_marginal / view.ahead_items if view.ahead_items else view.marginal
    levels = max(view.fixed, view.spread * mean_fixed) if count >= 1.0 else view.fixed
    return wait + levels + view.marginal + count * mean_marginal


def lateness(view: Outlook, *, deadline: float, overrun: float = 1.0) -> float:
    """Seconds by which the predicted finish, times the `overrun`, passes 0.9 of the deadline (seconds from now); <= 0: in time."""
    return finish(view) * overrun - DEADLINE_SHARE * deadline


class Overrun:
    """By what factor finishes exceed their prediction: a running 95 % quantile of actual over predicted, within [1, 1.5].

    Under overload every accepted request is predicted to finish just in time, so that half of them are late where the
    prediction is right on average. Only predictions beyond half of the deadline are samples, and only they need it.
    """

    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 1.0

    def finished(self, actual: float, *, predicted: float, deadline: float) -> None:
        """A request took `actual` seconds (at least: where it ran into its deadline) with `predicted` at its admission."""
        if predicted < OVERRUN_FROM * deadline:
            return
        above = actual > self.factor * predicted
        step = OVERRUN_STEP * (OVERRUN_QUANTILE if above else OVERRUN_QUANTILE - 1.0)
        self.factor = min(max(self.factor * (1.0 + step), 1.0), OVERRUN_MOST)


def retry_after(seconds: float, jitter: float) -> float:
    """max(1, ceil(seconds until it would be admitted)), plus up to a quarter (`jitter` in [0, 1])."""
    return max(1.0, float(math.ceil(seconds))) * (1.0 + JITTER * jitter)
