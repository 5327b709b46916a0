"""The tracker in virtual time: polling, staleness, holding, combining."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar.load import LoadProvider, NoData, Reading, ServerLoadTracker
from dtesn_sidecar.load.readings import LoadSource, SourceState, checked, combined, in_force

pytestmark = pytest.mark.looptime

VALUES = st.floats(0, 1)
WEIGHTS = st.floats(0.001, 1000)


def tracker_in_loop_time() -> ServerLoadTracker:
    return ServerLoadTracker(clock=asyncio.get_running_loop().time)


def fixed(value: object):
    async def provider():
        return value

    return provider


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until the condition holds; in real time, where a thread has to answer."""
    async with asyncio.timeout(250):
        while not condition():  # noqa: ASYNC110 - a thread has no asyncio.Event to set
            await asyncio.sleep(0)


async def result_of(answer: object) -> Reading | NoData:
    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(fixed(answer), name="p")
        await asyncio.sleep(0.5)
        return tracker.readings()[0].result


async def test_the_load_is_the_weighted_mean_of_the_providers() -> None:
    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(fixed(0.2), weight=1, name="a")
        tracker.add_load_provider(fixed(0.8), weight=3, name="b")
        await asyncio.sleep(0.1)
        assert tracker.get_current_load() == pytest.approx(0.65)


async def test_polling_starts_with_the_first_call_inside_a_loop_which_does_not_wait() -> None:
    asked = 0

    async def provider() -> float:
        nonlocal asked
        asked += 1
        return 0.5

    tracker = tracker_in_loop_time()
    tracker.add_load_provider(provider)
    await asyncio.sleep(5)
    assert asked == 0
    assert tracker.get_current_load() is None
    await asyncio.sleep(0.1)
    assert tracker.get_current_load() == 0.5
    assert asked == 1
    await tracker.aclose()


def test_outside_a_loop_there_is_no_data_and_no_error() -> None:
    tracker = ServerLoadTracker()
    tracker.add_load_provider(lambda: 0.4)
    assert tracker.get_current_load() is None


def test_a_tracker_outlives_the_loop_that_it_polled_in() -> None:
    tracker = ServerLoadTracker()
    tracker.add_load_provider(fixed(0.4), name="p", interval=0.1)

    async def tasks_once_known() -> int:
        await until(lambda: tracker.get_current_load() == 0.4)
        return len(asyncio.all_tasks())

    assert asyncio.run(tasks_once_known()) == 2
    assert asyncio.run(tasks_once_known()) == 2


async def test_each_provider_is_polled_at_its_own_interval_however_long_it_takes_itself() -> None:
    times: dict[str, list[float]] = {"quick": [], "slow": []}
    now = asyncio.get_running_loop().time

    def provider(name: str, takes: float):
        async def measure() -> float:
            times[name].append(now())
            await asyncio.sleep(takes)
            return 0.5

        return measure

    async with tracker_in_loop_time() as tracker:
        begin = now()
        tracker.add_load_provider(provider("quick", 0), name="quick", interval=1)
        tracker.add_load_provider(provider("slow", 4), name="slow", interval=5)
        await asyncio.sleep(10.5)
    assert [time - begin for time in times["quick"]] == pytest.approx(range(11))
    assert [time - begin for time in times["slow"]] == pytest.approx([0, 5, 10])


async def test_an_exception_is_no_data_with_its_text_and_polling_goes_on() -> None:
    answers: Iterator[Exception | float] = iter([RuntimeError("no driver"), 0.7])

    async def provider() -> float:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(provider, name="gpu", interval=1)
        await asyncio.sleep(0.5)
        assert tracker.readings()[0].result == NoData("RuntimeError: no driver")
        assert tracker.get_current_load() is None
        await asyncio.sleep(1)
        assert tracker.get_current_load() == 0.7


async def test_a_provider_that_raises_cancelled_error_is_polled_again() -> None:
    asked = 0

    async def provider() -> float:
        nonlocal asked
        asked += 1
        raise asyncio.CancelledError

    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(provider, name="p", interval=1)
        await asyncio.sleep(2.5)
        assert tracker.readings()[0].result == NoData("CancelledError")
    assert asked == 3


@pytest.mark.parametrize("answer", [1.5, -0.1, math.nan, math.inf, Reading(2.0, 0.0), "0.5", [0.5], None])
async def test_what_is_no_number_in_zero_to_one_is_no_data_with_a_reason(answer: object) -> None:
    result = await result_of(answer)
    assert isinstance(result, NoData)
    assert result.reason


async def test_a_provider_names_its_own_reason() -> None:
    assert await result_of(NoData("secret X, key Y missing")) == NoData("secret X, key Y missing")


async def test_a_reading_too_old_is_no_data_though_the_provider_never_answers_again() -> None:
    answers = iter([0.5])

    async def provider() -> float:
        for answer in answers:
            return answer
        await asyncio.Event().wait()
        raise AssertionError

    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(provider, name="p", interval=1, stale_after=10)
        await asyncio.sleep(9.9)
        assert tracker.get_current_load() == 0.5
        await asyncio.sleep(0.2)
        assert tracker.get_current_load() is None
        assert "stale" in tracker.readings()[0].result.reason


async def test_after_a_failure_the_last_reading_is_held_for_its_time_and_then_the_failure_shows() -> None:
    answers = iter([0.5])

    async def provider() -> float:
        for answer in answers:
            return answer
        raise OSError("refused")

    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(provider, name="p", interval=1, hold=30)
        await asyncio.sleep(29.9)
        assert tracker.get_current_load() == 0.5
        await asyncio.sleep(0.2)
        assert tracker.readings()[0].result == NoData("OSError: refused")


async def test_a_saturating_provider_counts_in_full_where_it_is_higher() -> None:
    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(fixed(0.1), weight=9, name="calm")
        tracker.add_load_provider(fixed(0.9), weight=1, name="full", saturating=True)
        await asyncio.sleep(0.1)
        assert tracker.get_current_load() == 0.9


async def test_a_saturating_provider_below_the_mean_counts_by_its_weight_like_any_other() -> None:
    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(fixed(0.9), weight=3, name="busy")
        tracker.add_load_provider(fixed(0.1), weight=1, name="calm", saturating=True)
        await asyncio.sleep(0.1)
        assert tracker.get_current_load() == pytest.approx(0.7)


async def test_providers_of_every_kind_combine_by_weight_age_and_hold_as_time_goes_by() -> None:
    """One is steady, one fails after its first answer (held 20 s), one hangs after it (stale after 10 s), one saturates from 30 s on."""
    now = asyncio.get_running_loop().time
    began = now()

    def once(value: float, then: Callable[[], object]):
        answers = iter([value])

        async def provider() -> float:
            for answer in answers:
                return answer
            await then()
            raise OSError("gone")

        return provider

    async def filling() -> float:
        return 0.95 if now() - began >= 30 else 0.0

    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(fixed(0.4), weight=2, name="steady")
        tracker.add_load_provider(once(1.0, lambda: asyncio.sleep(0)), weight=1, name="failing", hold=20)
        tracker.add_load_provider(once(0.8, asyncio.Event().wait), weight=1, name="hanging", stale_after=10)
        tracker.add_load_provider(filling, weight=1, name="filling", saturating=True)
        at = {}
        for second in (1, 9, 11, 19, 21, 29, 31):
            await asyncio.sleep(began + second + 0.5 - now())
            at[second] = tracker.get_current_load()
        assert at[1] == at[9] == pytest.approx((2 * 0.4 + 1.0 + 0.8 + 0.0) / 5)
        assert at[11] == at[19] == pytest.approx((2 * 0.4 + 1.0 + 0.0) / 4)  # the hanging one is stale
        assert at[21] == at[29] == pytest.approx((2 * 0.4 + 0.0) / 3)  # the failing one is held no longer
        assert at[31] == 0.95
        reasons = {state.name: state.result.reason for state in tracker.readings() if isinstance(state.result, NoData)}
        assert reasons == {"failing": "OSError: gone", "hanging": "stale: the last reading is 31.5 s old, the bound is 10 s"}


async def test_a_reading_is_as_old_as_its_provider_says_for_staleness_and_for_hold() -> None:
    now = asyncio.get_running_loop().time
    answers = [Reading(0.5, now() - 8)]

    async def provider() -> Reading:
        return answers.pop()

    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(provider, name="p", interval=1, stale_after=10, hold=12)
        await asyncio.sleep(0.5)
        assert tracker.readings()[0].age == pytest.approx(8.5)
        await asyncio.sleep(3)  # 11.5 s old: beyond stale, and held since the next poll failed
        assert tracker.get_current_load() == 0.5
        await asyncio.sleep(1)
        assert tracker.readings()[0].result == NoData("IndexError: pop from empty list")


async def test_a_provider_of_weight_zero_is_off_and_never_asked() -> None:
    async with tracker_in_loop_time() as tracker:
        tracker.add_load_provider(lambda: pytest.fail("asked"), weight=0, name="off")
        await asyncio.sleep(3)
        assert tracker.readings() == []


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"weight": math.nan}, {"interval": 0}, {"interval": math.inf}, {"hold": -1}])
async def test_a_setting_out_of_range_is_refused_by_name_and_value(wrong: dict[str, float]) -> None:
    tracker = ServerLoadTracker()
    (field, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"{field} of load provider 'p' is {value!r}"):
        tracker.add_load_provider(lambda: 0.1, name="p", **wrong)


async def test_a_name_is_taken_once_and_unnamed_functions_get_names_of_their_own() -> None:
    tracker = ServerLoadTracker()
    tracker.add_load_provider(lambda: 0.1, name="p")
    with pytest.raises(ValueError, match="named 'p' is there already"):
        tracker.add_load_provider(lambda: 0.1, name="p")
    for _ in range(3):
        tracker.add_load_provider(lambda: 0.1)
    assert len({state.name for state in tracker.readings()}) == 4


async def test_sources_configured_anew_keep_their_reading_only_with_equal_settings() -> None:
    def source(name: str, settings: object, provider: LoadProvider | None = None) -> LoadSource:
        return LoadSource(name, provider or fixed(0.3), settings=settings)

    async def never() -> float:
        await asyncio.Event().wait()
        raise AssertionError

    async with tracker_in_loop_time() as tracker:
        tracker.configure([source("same", 1), source("changed", 1), source("gone", 1)])
        await asyncio.sleep(0.1)
        tracker.configure([source("same", 1, never), source("changed", 2, never)])
        await asyncio.sleep(0.1)
        results = {state.name: state.result for state in tracker.readings()}
        assert isinstance(results.pop("same"), Reading)
        assert results == {"changed": NoData("not polled yet")}


async def test_polling_ends_with_aclose_and_with_it_the_tasks() -> None:
    tracker = tracker_in_loop_time()
    tracker.add_load_provider(fixed(0.1))
    tracker.get_current_load()
    assert len(asyncio.all_tasks()) == 2
    await tracker.aclose()
    await tracker.aclose()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.looptime(False)
async def test_a_plain_function_may_block_since_it_runs_in_a_thread() -> None:
    entered, let_go = threading.Event(), threading.Event()

    def provider() -> float:
        entered.set()
        assert threading.current_thread() is not threading.main_thread()
        assert let_go.wait(250)
        return 0.25

    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(provider)
        await until(entered.is_set)
        assert tracker.get_current_load() is None
        let_go.set()
        await until(lambda: tracker.get_current_load() == 0.25)


@pytest.mark.looptime(False)
async def test_whatever_a_plain_function_raises_is_no_data() -> None:
    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(lambda: next(iter(())), name="p")  # StopIteration, which a coroutine cannot raise
        await until(lambda: "StopIteration" in getattr(tracker.readings()[0].result, "reason", ""))


@pytest.mark.looptime(False)
async def test_a_plain_function_that_never_returns_does_not_hold_up_the_end() -> None:
    let_go = threading.Event()
    entered = threading.Event()
    tracker = ServerLoadTracker()

    def never_returns() -> float:
        entered.set()
        let_go.wait()
        return 0.0

    async with asyncio.timeout(250), tracker:
        tracker.add_load_provider(never_returns)
        await until(entered.is_set)
    assert tracker.get_current_load() is None
    let_go.set()


@pytest.mark.looptime(False)
async def test_a_plain_function_may_hand_out_a_coroutine() -> None:
    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(lambda: fixed(0.75)())
        await until(lambda: tracker.get_current_load() == 0.75)


@given(st.lists(st.tuples(VALUES, WEIGHTS, st.booleans()), max_size=8), st.integers(0, 5))
def test_the_combined_load_lies_between_its_readings_and_no_data_never_moves_it(
    parts: list[tuple[float, float, bool]], missing: int
) -> None:
    states = [SourceState(str(i), weight, saturating, Reading(value, 0.0), 0.0) for i, (value, weight, saturating) in enumerate(parts)]
    load = combined(states)
    assert combined([*states, *(SourceState("x", 5.0, True, NoData("?"), None) for _ in range(missing))]) == load
    if not parts:
        assert load is None
    else:
        values = [value for value, _, _ in parts]
        assert min(values) - 1e-9 <= load <= max(values) + 1e-9
        assert all(load >= value for value, _, saturating in parts if saturating)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_number_is_a_reading_exactly_where_it_is_in_zero_to_one(value: float) -> None:
    assert isinstance(checked(value, 5.0), Reading) == (0 <= value <= 1)


@given(st.floats(0, 100), st.floats(0.1, 50), st.floats(0, 50), st.booleans())
def test_a_reading_counts_as_long_as_it_is_fresh_or_held(age: float, stale_after: float, hold: float, failed: bool) -> None:
    source = LoadSource("p", fixed(0.5), stale_after=stale_after, hold=hold)
    last, failure = Reading(0.5, 0.0), NoData("failed") if failed else None
    counts = isinstance(in_force(source, last, failure, age), Reading)
    assert counts == (age <= (hold if failed else stale_after))
