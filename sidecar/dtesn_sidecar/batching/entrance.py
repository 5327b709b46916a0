"""Who is accepted: every reason to refuse a request, in order, over the manager's state. No asyncio, `now` passed in."""

from __future__ import annotations

from typing import Final

import msgspec

from dtesn_sidecar.errors import BreakerOpen, DTESNError, InvalidInput, QueueFull, RequestTooLarge

from .admission import DEADLINE_SHARE, Outlook, finish, lateness, retry_after, wait_ahead
from .breaker import Circuit
from .core import Core
from .item import PRIORITIES, Item
from .protocols import Work
from .queue import Ahead

SHEDDING: Final = frozenset({"queue_full", "queue_nodes", "deadline", "backlog"})
"""Refusals for want of time or room; the others say nothing about how fast answers come."""

ITEM: Final = "item"
"""The field that errors name: the argument of `submit`. Who took it from a field of his own puts that in its place."""


class Admission(msgspec.Struct, frozen=True):
    """An accepted request's key, its predicted seconds for levels and nodes, its predicted wait and finish (None: not known)."""

    key: float
    fixed: float
    marginal: float
    wait: float | None
    finish: float | None


class RefusedError(Exception):
    """Carries the reason of a refusal next to the error that the caller gets."""

    def __init__(self, reason: str, error: DTESNError) -> None:
        super().__init__(reason)
        self.reason = reason
        self._error = [error]

    def take(self) -> DTESNError:
        """The error, once: this becomes its context, and were it kept here each refusal would be garbage for the collector."""
        return self._error.pop()


def charge_of(work: Work) -> int:
    """What the node budgets count for it."""
    return work.nodes if work.charge is None else work.charge


def admit(core: Core, work: Work, *, priority: int, timeout: float, direct: bool, now: float, jitter: float) -> Admission:
    """Accept a request, or raise `RefusedError`; InvalidInput where `priority` is none."""
    if type(priority) is not int or not 0 <= priority < PRIORITIES:
        raise InvalidInput(f"priority is {priority!r}; expected 0, 1 or 2", field="priority", value=priority, expected="0, 1 or 2")
    config, ledger = core.config, core.ledger
    fixed, marginal = ledger.cost.parts(work)
    charge = charge_of(work)
    _check_size(core, work, charge, fixed + marginal)
    if config.enable_circuit_breaker:
        _check_breakers(core, direct=direct, now=now, jitter=jitter)
    key = now + priority * config.aging_ms / 1000.0
    outlook = core.outlook(now, core.queue.ahead(key), fixed, marginal, direct=direct)
    _check_crowd(core, outlook, priority=priority, charge=charge, timeout=timeout, now=now, jitter=jitter)
    if not ledger.cost.measured:
        return Admission(key, fixed, marginal, None, None)
    return Admission(key, fixed, marginal, wait_ahead(outlook), finish(outlook))


def turned_away(core: Core, *, priority: int, timeout: float, direct: bool, now: float, jitter: float) -> RefusedError | None:
    """How every request of this priority and timeout is refused now, however little it asks for; None: it must be looked at.

    What a request adds to the wait only makes it later, so one without any work is the last to be refused.
    """
    key = now + priority * core.config.aging_ms / 1000.0
    try:
        if core.config.enable_circuit_breaker:
            _check_breakers(core, direct=direct, now=now, jitter=jitter)
        outlook = core.outlook(now, core.queue.ahead(key), direct=direct)
        _check_crowd(core, outlook, priority=priority, charge=0, timeout=timeout, now=now, jitter=jitter)
    except RefusedError as refused:
        return refused
    return None


def displaced_by(core: Core, priority: int, charge: int) -> list[Item]:
    """Make room for an admitted request: the entries that leave for it, newest of the lowest class first."""
    out: list[Item] = []
    queue, config = core.queue, core.config
    while queue.items >= config.max_queue_size or (queue.charge + charge > config.max_queue_nodes and queue):
        item = queue.displace(priority)
        if item is None:
            break
        out.append(item)
    return out


def retry(core: Core, now: float, jitter: float) -> float:
    """Seconds after which one who lost his place finds a free device, and a request of default timeout would be admitted."""
    ledger = core.ledger
    opened = core.circuits.batch.retry_after(now) if core.circuits.enabled else None
    late = core.predicted_wait(now) * ledger.overrun.factor - DEADLINE_SHARE * core.default_timeout()
    return retry_after(max(opened or 0.0, ledger.rest(now, core.device_places()), late), jitter)


def _check_size(core: Core, work: Work, charge: int, seconds: float) -> None:
    config = core.config
    if seconds > config.max_request_seconds and core.ledger.cost.known(work):
        detail = f"the request is predicted to compute for {seconds:.1f} s; at most {config.max_request_seconds:g} s are allowed"
        raise _too_large(detail, f"{seconds:.1f} s of compute", f"at most {config.max_request_seconds:g} s (max_request_seconds)")
    if charge > config.max_queue_nodes:
        detail = f"the request has {charge} nodes; the queue takes at most {config.max_queue_nodes}"
        raise _too_large(detail, f"{charge} nodes", f"at most {config.max_queue_nodes} nodes (max_queue_nodes)")


def _too_large(detail: str, value: str, expected: str) -> RefusedError:
    return RefusedError("too_large", RequestTooLarge(detail, field=ITEM, value=value, expected=expected))


def _check_breakers(core: Core, *, direct: bool, now: float, jitter: float) -> None:
    circuits = core.circuits
    falls_back = circuits.falls_back(now)
    if not direct and not falls_back:
        return
    if circuits.direct.state(now) is Circuit.OPEN:
        until = circuits.direct.retry_after(now) or 0.0
        if falls_back:
            until = min(until, circuits.batch.retry_after(now) or until)
        raise RefusedError("breaker", BreakerOpen("direct processing fails too", retry_after=retry_after(until, jitter)))
    if falls_back and not direct and core.queue.items - core.queue.direct + core.fallbacks_running() >= core.max_direct():
        until = circuits.batch.retry_after(now) or 0.0
        detail = "the circuit breaker is open and direct processing is at its bound"
        raise RefusedError("breaker", BreakerOpen(detail, retry_after=retry_after(until, jitter)))


def _check_crowd(core: Core, outlook: Outlook, *, priority: int, charge: int, timeout: float, now: float, jitter: float) -> None:
    """Refuse for what is queued and running: no room, or no time."""
    config, queue, ledger = core.config, core.queue, core.ledger
    if queue.items >= config.max_queue_size or queue.charge + charge > config.max_queue_nodes:
        _check_room(core, outlook, priority, charge, now, jitter)
    if not queue.items and not ledger.computing:  # on an idle device a pessimistic prediction must stay refutable
        return
    late = lateness(outlook, deadline=timeout, overrun=ledger.overrun.factor)
    if late > 0.0:
        expected = finish(outlook) * ledger.overrun.factor
        detail = f"the predicted finish in {expected:.3f} s is beyond 0.9 of the deadline of {timeout:.3f} s"
        raise _full("deadline", detail, late, jitter)
    backlog = core.predicted_wait(now) if outlook.ahead_items < queue.items else wait_ahead(outlook)
    if backlog > config.max_timeout:
        raise _full("backlog", "more is queued than a drain could finish", backlog - config.max_timeout, jitter)


def _check_room(core: Core, outlook: Outlook, priority: int, charge: int, now: float, jitter: float) -> None:
    """Refuse where the queue is full even if the classes below gave way."""
    config, queue = core.config, core.queue
    items, freed = queue.displaceable(priority)
    short = queue.charge - freed + charge - config.max_queue_nodes
    if items > 0 and short <= 0 and queue.items - items < config.max_queue_size:
        return
    wait = outlook.rest
    if queue.items < config.max_queue_size:  # as much of the queue must leave as it is short of nodes
        whole = Ahead(queue.items, queue.direct, queue.fixed, queue.marginal)
        wait += (queue.charge + charge - config.max_queue_nodes) / queue.charge * (wait_ahead(core.outlook(now, whole, direct=True)) - wait)
        raise _full("queue_nodes", f"{queue.charge} nodes are queued", wait, jitter)
    raise _full("queue_full", f"{queue.items} requests are queued", wait, jitter)


def _full(reason: str, detail: str, seconds: float, jitter: float) -> RefusedError:
    return RefusedError(reason, QueueFull(detail, retry_after=retry_after(seconds, jitter)))
