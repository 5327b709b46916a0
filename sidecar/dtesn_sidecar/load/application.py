"""The load of an application that counts its own running requests, as Aphrodite and vLLM do in `app.state.server_load_metrics`.

The count is read where it lies: an attribute (FastAPI's `app.state`, any object), a mapping's entry, or an attribute of one of
a mapping's values (an aiohttp application with a state object under a typed `AppKey`). Who counts is the application.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Final

from dtesn_sidecar.load.readings import LoadProvider, NoData
from dtesn_sidecar.load.tracker import ServerLoadTracker

ATTRIBUTE: Final = "server_load_metrics"
PROVIDER: Final = "application"  # its name in metrics
INTERVAL: Final = 0.1  # seconds between polls: sizes are smoothed every 100 ms, and reading a number costs nothing
_MISSING: Final = object()


def create_load_tracker_for_app(state: object, max_requests: int = 64) -> ServerLoadTracker:
    """A tracker whose one provider, `application`, reads the running requests of `state`; others can be added to it.

    The load is min(1, count / max_requests). Raises ValueError where `max_requests` is not an integer of at least 1.
    """
    tracker = ServerLoadTracker()
    tracker.add_load_provider(application_load(state, max_requests), name=PROVIDER, interval=INTERVAL)
    return tracker


def get_batch_load_function(state: object, max_requests: int = 64) -> Callable[[], float | None]:
    """A function for `DynamicBatchManager(load_tracker=...)` or `DTESNProcessor(server_load_tracker=...)`: the load, or None for no data.

    The load is min(1, count / max_requests). Raises ValueError where `max_requests` is not an integer of at least 1.
    """
    most = _checked(max_requests)

    def application() -> float | None:
        load = load_of(state, most)
        return None if isinstance(load, NoData) else load

    return application


def application_load(state: object, max_requests: int) -> LoadProvider:
    """The provider behind both; async, so that the count is read on the event loop, where it changes."""
    most = _checked(max_requests)

    async def application() -> float | NoData:
        return load_of(state, most)

    return application


def load_of(state: object, max_requests: int) -> float | NoData:
    """min(1, count / max_requests) in [0, 1]. A count that is not there, or no count, is no data and never 0."""
    count = _found(state)
    if count is _MISSING or count is None:
        return NoData(f"{type(state).__name__} has no {ATTRIBUTE}")
    number: float
    if isinstance(count, bool):
        return _no_count(count)
    if isinstance(count, int):
        number = count  # not as a float: an integer may be beyond any
    elif isinstance(count, Real):
        number = float(count)
    else:
        return _no_count(count)
    if not 0 <= number < math.inf:  # false for NaN too
        return NoData(f"{ATTRIBUTE} is {number!r}, not a number of running requests"[:200])
    return 1.0 if number >= max_requests else number / max_requests


def _no_count(value: object) -> NoData:
    return NoData(f"{ATTRIBUTE} is of type {type(value).__name__}, not a number of running requests")


def _found(state: object) -> object:
    count = getattr(state, ATTRIBUTE, _MISSING)
    if count is _MISSING and isinstance(state, Mapping):
        count = state.get(ATTRIBUTE, _MISSING)
        if count is _MISSING:
            # A started aiohttp application is frozen: a count that changes lies in an object, under a key without a public name.
            count = next((found for value in state.values() if (found := getattr(value, ATTRIBUTE, _MISSING)) is not _MISSING), _MISSING)
    return count


def _checked(max_requests: int) -> int:
    if type(max_requests) is not int or max_requests < 1:
        raise ValueError(f"max_requests is {max_requests!r}, must be an integer of at least 1")
    return max_requests
