"""When the Events of pods that do not say what keeps them are asked for."""

from __future__ import annotations

from itertools import pairwise

from dtesn_operator.silent import FIRST, MOST, PER_SECOND, Silence, Turns, ask, over


def asked(silence: Silence, turns: Turns, seconds: float, step: float = 0.05) -> list[float]:
    """When it asks within so many seconds, being looked at all the time."""
    return [at for at in (number * step for number in range(int(seconds / step))) if ask(silence, turns, at)]


def test_a_pod_that_has_only_just_come_is_given_time() -> None:
    silence, turns = Silence(), Turns()
    assert not ask(silence, turns, 100.0)
    assert silence.due == 100.0 + FIRST
    assert ask(silence, turns, 100.0 + FIRST)


def test_pauses_grow_and_questions_never_end() -> None:
    times = asked(Silence(), Turns(), 600.0)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] - MOST < 0.1
    assert len(times) > 10


def test_a_pod_that_becomes_ready_ends_it_and_the_next_silence_begins_anew() -> None:
    silence, turns = Silence(), Turns()
    asked(silence, turns, 100.0)
    silence.answer = "a Secret is missing"
    over(silence)
    assert silence == Silence()
    assert not ask(silence, turns, 101.0)


def test_many_silent_resources_share_the_turns_and_each_gets_one() -> None:
    silences, turns = [Silence() for _ in range(100)], Turns()
    times = sorted(at for number in range(2000) for silence in silences if silence.times == 0 and ask(silence, turns, at := number * 0.05))
    assert len(times) == 100
    assert all(times[number + 3] - times[number] >= 2.0 / PER_SECOND for number in range(97))
    assert times[-1] <= FIRST + 100 / PER_SECOND + 0.1


def test_who_must_wait_is_told_until_when() -> None:
    turns = Turns()
    first, second = Silence(due=10.0), Silence(due=10.0)
    assert ask(first, turns, 10.0)
    assert not ask(second, turns, 10.0)
    assert second.due == 10.0 + 1.0 / PER_SECOND
    assert ask(second, turns, second.due)
