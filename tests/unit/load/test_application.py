"""The load of an application that counts its running requests: what counts as a count, and where it is found."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest
from aiohttp import web
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar import create_load_tracker_for_app, get_batch_load_function
from dtesn_sidecar.load.application import load_of
from dtesn_sidecar.load.readings import NoData, Reading


class Counting:
    """What an aiohttp application keeps under a typed key."""

    server_load_metrics = 0


@given(st.integers(0, 10**400), st.integers(1, 10**6))
def test_the_load_is_the_share_of_the_requests_that_may_run_and_never_above_one(count: int, most: int) -> None:
    load = load_of(SimpleNamespace(server_load_metrics=count), most)
    assert isinstance(load, float)
    assert load == (1.0 if count >= most else count / most)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_more_running_requests_are_never_less_load(one: int, other: int, most: int) -> None:
    few, many = sorted((one, other))
    assert load_of({"server_load_metrics": few}, most) <= load_of({"server_load_metrics": many}, most)


def fastapi_state() -> object:
    app = FastAPI()
    app.state.server_load_metrics = 16
    return app.state


def aiohttp_application() -> object:
    app = web.Application()
    app[web.AppKey("other", str)] = "something else"
    app[web.AppKey("counting", Counting)] = counting = Counting()
    app.freeze()
    counting.server_load_metrics = 16
    return app


@pytest.mark.parametrize(
    "state",
    [
        fastapi_state(),
        aiohttp_application(),
        {"server_load_metrics": 16},
        SimpleNamespace(server_load_metrics=16),
        SimpleNamespace(server_load_metrics=np.int64(16)),
        SimpleNamespace(server_load_metrics=16.0),
    ],
    ids=["FastAPI", "aiohttp with a typed key", "mapping", "object", "NumPy integer", "float"],
)
def test_the_count_is_found_wherever_applications_keep_it(state: object) -> None:
    assert get_batch_load_function(state)() == 0.25
    assert get_batch_load_function(state, max_requests=8)() == 1.0


NO_COUNT = [FastAPI().state, web.Application(), {}, SimpleNamespace(), None, SimpleNamespace(server_load_metrics=None)]


@pytest.mark.parametrize("state", NO_COUNT)
def test_without_a_count_there_is_no_data_and_not_a_load_of_nothing(state: object) -> None:
    assert get_batch_load_function(state)() is None
    found = load_of(state, 64)
    assert isinstance(found, NoData)
    assert "has no server_load_metrics" in found.reason


@pytest.mark.parametrize("count", [math.nan, math.inf, -math.inf, -1, -0.5, "3", [1], True, 1j, object()])
def test_what_is_no_count_is_no_data_with_the_reason(count: object) -> None:
    found = load_of(SimpleNamespace(server_load_metrics=count), 64)
    assert isinstance(found, NoData)
    assert "not a number of running requests" in found.reason


@pytest.mark.parametrize("most", [0, -1, True, 1.5, "64", None])
def test_a_bound_that_is_none_is_an_error_at_once(most: object) -> None:
    for make in (create_load_tracker_for_app, get_batch_load_function):
        with pytest.raises(ValueError, match="max_requests is"):
            make({}, most)


@pytest.mark.looptime
async def test_the_tracker_reads_the_count_and_follows_it() -> None:
    state = {"server_load_metrics": 5}
    async with create_load_tracker_for_app(state, 10) as tracker:
        await asyncio.sleep(0.05)
        (source,) = tracker.readings()
        assert source.name == "application"
        assert source.result == Reading(0.5, source.result.at)
        for count in (0, 3, 10, 99):
            state["server_load_metrics"] = count
            await asyncio.sleep(0.2)
            assert tracker.get_current_load() == min(1.0, count / 10)
        del state["server_load_metrics"]
        await asyncio.sleep(0.2)
        assert tracker.get_current_load() is None


@pytest.mark.looptime
async def test_the_tracker_says_why_there_is_no_data() -> None:
    async with create_load_tracker_for_app(SimpleNamespace(server_load_metrics=-3)) as tracker:
        await asyncio.sleep(0.05)
        (source,) = tracker.readings()
        assert source.result == NoData("server_load_metrics is -3, not a number of running requests")
