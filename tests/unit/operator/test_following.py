"""Whether pods follow the live settings, and what is done about those that do not. `now` is passed in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dtesn_operator.following import PATIENCE, SILENT_EVERY, TELL_EVERY, Memory, begin, heard, step, written_at
from dtesn_operator.pods import Pod

WRITTEN = "2026-01-01T00:00:10Z"


def pod(name: str = "a", *, ready: bool = True, created: str = "2026-01-01T00:00:00Z") -> Pod:
    return Pod(name=name, uid=f"uid-{name}", ip="10.0.0.1", ready=ready, told="", trouble="", created=created)


def begun(config_hash: str = "new", now: float = 0.0) -> Memory:
    memory = Memory()
    begin(memory, config_hash, now)
    return memory


def test_a_pod_that_is_older_than_the_settings_is_told_at_once_and_asked_soon_after() -> None:
    memory, pods = begun(), [pod()]
    first = step(memory, pods, WRITTEN, 0.0)
    assert (first.tell, first.ask, first.behind) == (((pods[0], 0),), (), (pods[0],))
    assert first.again is not None
    second = step(memory, pods, WRITTEN, first.again)
    assert (second.tell, second.ask) == ((), (pods[0],))


def test_a_pod_that_started_after_the_settings_were_written_is_left_alone() -> None:
    found = step(begun(), [pod(created="2026-01-01T00:00:11Z")], WRITTEN, 0.0)
    assert (found.tell, found.ask, found.behind, found.again) == ((), (), (), None)


def test_where_the_settings_were_never_changed_nobody_is_told() -> None:
    assert step(begun(), [pod()], None, 0.0).tell == ()


def test_a_pod_that_reported_the_hash_is_not_asked_again_until_the_settings_change() -> None:
    memory, pods = begun(), [pod()]
    assert not heard(memory, pods[0], "old")
    assert heard(memory, pods[0], "new")
    assert step(memory, pods, WRITTEN, 100.0).behind == ()
    begin(memory, "newer", 200.0)
    assert step(memory, pods, WRITTEN, 200.0).behind == (pods[0],)


def test_a_pod_that_is_not_ready_is_told_and_not_asked() -> None:
    memory, pods = begun(), [pod(ready=False)]
    found = step(memory, pods, WRITTEN, 0.0)
    assert (len(found.tell), found.behind) == (1, ())
    assert step(memory, pods, WRITTEN, 5.0).ask == ()


@given(st.floats(0.05, 3.0))
def test_a_silent_pod_is_told_every_ten_seconds_and_after_two_minutes_once_a_minute(tick: float) -> None:
    memory, pods, now, told = begun(), [pod()], 0.0, []
    while now < PATIENCE + 5 * SILENT_EVERY:
        if step(memory, pods, WRITTEN, now).tell:
            told.append(now)
        now += tick
    pauses = [after - before for before, after in pairwise(told)]
    early = [pause for at, pause in zip(told, pauses, strict=False) if at < PATIENCE]
    late = [pause for at, pause in zip(told, pauses, strict=False) if at >= PATIENCE]
    assert all(TELL_EVERY <= pause + 1e-6 <= TELL_EVERY + tick + 1e-3 for pause in early)
    assert all(SILENT_EVERY <= pause + 1e-6 <= SILENT_EVERY + tick + 1e-3 for pause in late)


@given(st.lists(st.booleans(), max_size=6))
def test_the_next_step_comes_while_somebody_is_behind_and_not_otherwise(ready: list[bool]) -> None:
    pods = [pod(str(i), ready=one) for i, one in enumerate(ready)]
    found = step(begun(), pods, WRITTEN, 0.0)
    assert (found.again is not None) == bool(pods)


def config_map(*applied: str) -> dict[str, Any]:
    made = "2026-01-01T00:00:00Z"
    entries = [{"manager": "dtesn-operator", "operation": "Apply", "time": one} for one in applied]
    entries += [
        {"manager": "kubectl", "operation": "Apply", "time": "2027"},
        {"manager": "dtesn-operator", "operation": "Update", "time": made},
    ]
    return {"metadata": {"creationTimestamp": made, "managedFields": entries}}


def test_settings_were_written_when_we_last_changed_the_config_map_after_making_it() -> None:
    assert written_at(None) is None
    assert written_at(config_map()) is None
    assert written_at(config_map("2026-01-01T00:00:05Z", WRITTEN)) == WRITTEN


def test_settings_that_change_in_the_second_in_which_they_were_made_are_told() -> None:
    pods = [pod(created="2026-01-01T00:00:00Z")]
    assert step(begun(), pods, written_at(config_map("2026-01-01T00:00:00Z")), 0.0).tell == ((pods[0], 0),)
