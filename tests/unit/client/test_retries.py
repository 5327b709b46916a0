"""Whether a call is made again: a pure decision, and the budget that bounds what all calls together may add."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar.client.retries import Again, Broken, Budget, GiveUp, Hopeless, Refused, RetryPolicy, Status, decide

seconds = st.floats(0, 1e6)
shares = st.floats(0, 1, exclude_max=True)
failures = st.one_of(
    st.builds(Refused),
    st.builds(Broken),
    st.builds(Hopeless),
    st.builds(Status, st.sampled_from([400, 404, 413, 422, 429, 500, 502, 503, 504]), st.none() | seconds),
)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 100),
    total_seconds=seconds,
    base_seconds=st.floats(0, 100),
    longest_seconds=st.floats(0, 1000),
    resend=st.booleans(),
    budget_ratio=st.floats(0, 1),
    budget_burst=st.floats(0, 100),
)
situations = st.fixed_dictionaries(
    {"attempt": st.integers(1, 200), "elapsed": seconds, "left": st.none() | seconds, "tokens": st.floats(0, 100), "jitter": shares}
)
ALWAYS = RetryPolicy(attempts=1000, total_seconds=1e6)
PLENTY = {"elapsed": 0.0, "left": None, "tokens": 10.0}


@given(policies, failures, situations)
def test_a_retry_keeps_every_bound_of_the_policy(policy: RetryPolicy, failure: object, situation: dict) -> None:
    decision = decide(policy, failure, **situation)
    if isinstance(decision, Again):
        assert situation["attempt"] < policy.attempts
        assert situation["elapsed"] + decision.after <= policy.total_seconds
        assert situation["left"] is None or decision.after < situation["left"]
        assert decision.cost <= situation["tokens"]
        assert not isinstance(failure, Hopeless)
        assert not isinstance(failure, Broken) or policy.resend
        assert not isinstance(failure, Status) or failure.status in policy.statuses
    else:
        assert decision.reason


@given(policies, st.sampled_from([429, 503]), seconds, situations)
def test_no_retry_comes_before_the_server_asked_for_it(policy: RetryPolicy, status: int, wait: float, situation: dict) -> None:
    decision = decide(policy, Status(status, wait), **situation)
    assert isinstance(decision, GiveUp) or wait <= decision.after <= wait + policy.longest_seconds


@given(policies, failures, situations)
def test_more_time_and_more_budget_never_forbid_a_retry(policy: RetryPolicy, failure: object, situation: dict) -> None:
    if isinstance(decide(policy, failure, **situation), Again):
        ampler = {**situation, "left": None, "tokens": situation["tokens"] + 1, "elapsed": 0.0}
        assert decide(policy, failure, **ampler) == decide(policy, failure, **situation)


@pytest.mark.parametrize("attempt", range(1, 12))
def test_the_pause_doubles_up_to_its_bound_and_is_drawn_over_its_whole_length(attempt: int) -> None:
    policy = RetryPolicy(attempts=99, total_seconds=1000, base_seconds=0.5, longest_seconds=8)
    longest = min(8, 0.5 * 2 ** (attempt - 1))
    assert decide(policy, Refused(), attempt=attempt, jitter=0.0, **PLENTY) == Again(0.0, 0.0)
    assert decide(policy, Refused(), attempt=attempt, jitter=0.5, **PLENTY) == Again(longest / 2, 0.0)


def test_the_pause_of_the_thousandth_attempt_is_still_a_number() -> None:
    assert decide(ALWAYS, Refused(), attempt=999, jitter=0.5, **PLENTY) == Again(2.5, 0.0)


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 500, 502, 504])
def test_what_would_fail_again_or_cost_again_is_not_tried_again(status: int) -> None:
    assert isinstance(decide(ALWAYS, Status(status, 1.0), attempt=1, jitter=0.5, **PLENTY), GiveUp)


def test_what_no_server_saw_costs_no_budget_and_all_else_does() -> None:
    broke = {**PLENTY, "tokens": 0.5}
    assert isinstance(decide(ALWAYS, Refused(), attempt=1, jitter=0.0, **broke), Again)
    for failure in (Broken(), Status(429), Status(503)):
        assert decide(ALWAYS, failure, attempt=1, jitter=0.0, **broke) == GiveUp("the retry budget is used up")
        assert decide(ALWAYS, failure, attempt=1, jitter=0.0, **PLENTY) == Again(0.0, 1.0)


@given(st.floats(0, 1), st.floats(0, 50), st.lists(st.integers(0, 8), max_size=200))
def test_whatever_the_server_does_retries_are_bounded_by_the_calls(ratio: float, burst: float, wanted: list[int]) -> None:
    """Each call wants so many retries; the budget allows what its law says and no more."""
    policy = RetryPolicy(attempts=100, total_seconds=1e6, budget_ratio=ratio, budget_burst=burst)
    budget = Budget(policy)
    requests = 0
    for retries in wanted:
        budget.called()
        requests += 1
        for attempt in range(1, retries + 1):
            decision = decide(policy, Status(429), attempt=attempt, elapsed=0, left=None, tokens=budget.tokens, jitter=0)
            if isinstance(decision, GiveUp):
                break
            budget.retried(decision.cost)
            requests += 1
        assert 0 <= budget.tokens <= burst
    assert requests <= len(wanted) * (1 + ratio) + burst + 1e-6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", 0),
        ("total_seconds", -1.0),
        ("base_seconds", math.nan),
        ("longest_seconds", math.inf),
        ("budget_ratio", 1.5),
        ("budget_burst", -1),
    ],
)
def test_a_policy_out_of_bounds_names_field_value_and_range(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value!r}, must be"):
        RetryPolicy(**{field: value})


def test_a_policy_is_a_value() -> None:
    assert RetryPolicy() == RetryPolicy()
    with pytest.raises(AttributeError):
        RetryPolicy().attempts = 3
