"""The conditions of a resource, from what was observed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.spec import decode_spec
from dtesn_api.status import Observed, Reason
from dtesn_operator.batcher import Batcher
from dtesn_operator.observe import Reading
from dtesn_operator.status import MOST_WORDS, Trouble, View, before_of, changed, confirmed, observed_before, only_begun, status_of

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z"


def batcher(status: dict[str, Any] | None = None, generation: int = 3, **spec: Any) -> Batcher:
    return Batcher("shop", "demo", uid="u", generation=generation, spec=decode_spec(spec), status=status or {})


def workload(replicas: int = 2, updated: int = 2, available: int = 2, *, observed: int = 5, generation: int = 5) -> dict[str, Any]:
    counts = {"replicas": replicas, "updatedReplicas": updated, "availableReplicas": available, "readyReplicas": available}
    return {"metadata": {"generation": generation}, "status": {"observedGeneration": observed, **counts}}


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next(one for one in status["conditions"] if one["type"] == kind)
    return found["status"], found["reason"]


def view(deployment: dict[str, Any] | None = None, replicas: int = 2, **others: Any) -> View:
    return View(deployment, replicas, "a:1", "hash", **others)


@pytest.mark.parametrize(
    ("deployment", "ready", "progressing"),
    [
        (None, ("False", "TooFewReplicas"), ("True", "RolloutInProgress")),
        (workload(), ("True", "Available"), ("False", "UpToDate")),
        (workload(observed=4), ("False", "TooFewReplicas"), ("True", "RolloutInProgress")),
        (workload(available=1), ("False", "TooFewReplicas"), ("True", "RolloutInProgress")),
        (workload(replicas=3, updated=1, available=3), ("False", "TooFewReplicas"), ("True", "RolloutInProgress")),
        (workload(replicas=3), ("True", "Available"), ("True", "RolloutInProgress")),
    ],
    ids=["none yet", "whole", "not looked at yet", "one is not available", "in the middle of a rollout", "one too many"],
)
def test_ready_and_progressing_are_the_deployments(
    deployment: dict[str, Any] | None, ready: tuple[str, str], progressing: tuple[str, str]
) -> None:
    status = status_of(batcher(), view(deployment), NOW)
    assert (condition(status, "Ready"), condition(status, "Progressing")) == (ready, progressing)


def test_a_status_that_says_no_more_than_that_pods_are_on_their_way_may_wait() -> None:
    assert only_begun(status_of(batcher(), view(), NOW))
    assert only_begun(status_of(batcher(), view(workload(available=1)), NOW))
    told = (view(workload()), view(troubles=[Trouble(Reason.NAME_CONFLICT, "taken")]), view(paused=True))
    assert not any(only_begun(status_of(batcher(), one, NOW)) for one in told)


def test_pods_that_are_behind_with_their_settings_are_progress_and_no_less_ready() -> None:
    status = status_of(batcher(), view(workload(), behind=1), NOW)
    assert condition(status, "Ready") == ("True", "Available")
    assert condition(status, "Progressing") == ("True", "ConfigInProgress")


def test_a_trouble_stands_beside_ready_and_says_all_of_its_sentences_once() -> None:
    troubles = [Trouble(Reason.NAME_CONFLICT, "one"), Trouble(Reason.OBJECT_REFUSED, "two"), Trouble(Reason.NAME_CONFLICT, "one")]
    status = status_of(batcher(), view(workload(), troubles=troubles), NOW)
    assert condition(status, "Ready")[0] == "True"
    assert condition(status, "Degraded") == ("True", "NameConflict")
    assert before_of(status, "Degraded")["message"] == "one; two"


def test_a_sentence_is_cut_off_before_the_api_server_refuses_it() -> None:
    status = status_of(batcher(), view(workload(), troubles=[Trouble(Reason.OBJECT_REFUSED, "x" * 10_000)]), NOW)
    assert len(before_of(status, "Degraded")["message"]) == MOST_WORDS


def body(load: float | None) -> dict[str, Any]:
    return {"server_load": {"queue": {"value": load}}}


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (None, ("Unknown", "PodsSilent")),
        (Reading(0, (), 0.0), ("Unknown", "PodsSilent")),
        (Reading(2, (), 0.0), ("Unknown", "PodsSilent")),
        (Reading(2, (body(None),), 0.0), ("False", "NoData")),
        (Reading(2, (body(None), body(0.0)), 0.0), ("True", "FreshReading")),
    ],
    ids=["not asked", "no pod", "silent", "no data", "one has data"],
)
def test_load_is_available_where_a_pod_has_a_reading(reading: Reading | None, expected: tuple[str, str]) -> None:
    assert condition(status_of(batcher(), view(workload(), reading=reading), NOW), "LoadAvailable") == expected


def test_a_new_leader_keeps_what_was_known_of_the_load_until_it_has_asked() -> None:
    before = status_of(batcher(), view(workload(), reading=Reading(1, (body(0.5),), 0.0)), NOW)
    assert condition(status_of(batcher(before), view(workload()), LATER), "LoadAvailable") == ("True", "FreshReading")


def test_the_time_of_a_condition_is_that_of_the_last_change_of_its_truth() -> None:
    before = status_of(batcher(), view(workload()), NOW)
    same = status_of(batcher(before), view(workload()), LATER)
    assert changed(before, same) is None
    worse = status_of(batcher(before), view(workload(available=1)), LATER)
    assert before_of(worse, "Ready")["lastTransitionTime"] == LATER
    assert before_of(worse, "Paused")["lastTransitionTime"] == NOW


def test_autoscaling_is_called_suspended_at_no_replicas_unless_it_may_scale_to_none() -> None:
    none = view(workload(0, 0, 0), 0)
    scaled = {"enabled": True, "via": "keda", "prometheusUrl": "http://p:9090", "activationQuery": "up"}
    suspended = before_of(status_of(batcher(autoscaling={**scaled, "minReplicas": 1}), none, NOW), "Ready")["message"]
    assert suspended == "0 of 0 pods of this generation are available; autoscaling is suspended while spec.replicas is 0"
    asleep = before_of(status_of(batcher(autoscaling={**scaled, "minReplicas": 0}), none, NOW), "Ready")["message"]
    assert asleep == "0 of 0 pods of this generation are available"


def test_pods_count_as_following_after_a_restart_of_the_operator_where_the_status_said_so() -> None:
    done = status_of(batcher(), view(workload()), NOW)
    assert confirmed(batcher(done), "hash")
    assert not confirmed(batcher(done), "another")
    assert not confirmed(batcher(status_of(batcher(), view(workload(), behind=1), NOW)), "hash")


figures = st.builds(
    Observed,
    load=st.none() | st.floats(0, 1),
    batch_size=st.none() | st.floats(1, 100),
    pending=st.none() | st.integers(0, 100),
)


@given(st.none() | figures)
def test_figures_read_back_from_a_status_are_those_written(observed: Observed | None) -> None:
    status = status_of(batcher(), view(workload(), observed=observed), NOW)
    back = observed_before(batcher(status))
    assert back == (None if observed in (None, Observed()) else observed)


def merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    found = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


@given(st.none() | figures, st.none() | figures, st.integers(0, 3), st.integers(0, 3))
def test_the_patch_turns_the_one_status_into_the_other(before: Observed | None, after: Observed | None, was: int, now: int) -> None:
    first = status_of(batcher(), view(workload(available=was), observed=before), NOW)
    second = status_of(batcher(first, generation=4), view(workload(available=now), observed=after), LATER)
    patch = changed(first, second)
    assert patch is not None
    assert merged(first, patch) == second
