"""Chains that take turns in one row: who waits, and that it changes no answer."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model.models import Features, compute, make

from dtesn_sidecar.model.batch import Batch
from dtesn_sidecar.model.lanes import FEW, WIDTHS, active, lanes
from dtesn_sidecar.model.packing import Part, pack
from dtesn_sidecar.model.reservoir import RunItem
from dtesn_sidecar.model.trees import Tree

lengths_of_a_batch = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 90)), min_size=1, max_size=40)


def text(length: int, seed: int = 0) -> Tree:
    return Tree("byte", np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8))


def log_normal(seed: int, count: int = 32, mean: float = 24.0) -> list[int]:
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - 0.18, 0.6, count)
    return [max(1, round(length)) for length in drawn]


def mean_end(remaining: list[int], found: list[list[int]]) -> float:
    """The mean step, weighted with the rows of each step before, in which chains end."""
    ends = [np.cumsum([remaining[i] for i in lane]) for lane in found]
    rows = active([int(end[-1]) for end in ends], max(remaining))
    cost = np.cumsum(np.maximum(rows, FEW + rows / 2))
    return float(np.mean([cost[end - 1] for lane in ends for end in lane]))


@given(lengths_of_a_batch, st.data())
def test_every_chain_has_one_place_and_only_patient_ones_wait(remaining: list[int], data: st.DataObject) -> None:
    patient = data.draw(st.lists(st.booleans(), min_size=len(remaining), max_size=len(remaining)))
    found = lanes(remaining, patient)
    assert sorted(i for lane in found for i in lane) == list(range(len(remaining)))
    assert all(patient[i] for lane in found for i in lane[1:])
    totals = [sum(remaining[i] for i in lane) for lane in found]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == max(remaining), "nobody ends later than the longest alone"
    assert sum(len(lane) > 1 for lane in found) <= max(WIDTHS)


@given(lengths_of_a_batch)
def test_chains_end_no_later_on_average_than_if_none_waited(remaining: list[int]) -> None:
    found = lanes(remaining, [True] * len(remaining))
    assert mean_end(remaining, found) <= mean_end(remaining, [[i] for i in range(len(remaining))]) * (1 + 1e-12)


def test_steps_of_fewer_than_four_rows_are_mostly_gone_from_batches_of_mixed_lengths() -> None:
    few = np.zeros(2)
    for seed in range(20):
        remaining = log_normal(seed)
        for i, found in enumerate(([[i] for i in range(32)], lanes(remaining, [True] * 32))):
            few[i] += (active([sum(remaining[i] for i in lane) for lane in found], max(remaining)) < 4).sum()
    assert few[1] < 0.5 * few[0]


def test_chains_of_equal_lengths_and_few_chains_do_not_wait() -> None:
    assert lanes([64] * 32, [True] * 32) == [[i] for i in range(32)]
    assert lanes([9, 1, 5], [True] * 3) == [[0], [2], [1]]
    assert lanes([], []) == []


@given(st.lists(st.integers(1, 60), min_size=8, max_size=40), st.integers(0, 99))
def test_rows_of_a_plan_are_those_of_the_items_in_turn(remaining: list[int], seed: int) -> None:
    lengths = log_normal(seed) + remaining
    parts = [Part(uid, text(length), 0, patient=True) for uid, length in enumerate(lengths)]
    plan = pack(parts, turns=True)
    assert sorted(plan.uids) == list(range(len(lengths)))
    assert (np.diff(plan.chains) <= 0).all(), "active rows are a prefix"
    assert plan.starts[-1] == sum(lengths)
    place = dict(zip(plan.uids, range(len(plan.uids)), strict=True))
    for uid, length in enumerate(lengths):
        rows = np.flatnonzero(plan.keys >> 32 == uid)
        steps = np.searchsorted(plan.starts, rows, side="right") - 1
        assert (plan.keys[rows] & 0xFFFFFFFF).tolist() == list(range(length))
        assert len(set((rows - plan.starts[steps]).tolist())) == 1, "an item keeps its row"
        assert steps.tolist() == list(range(plan.begins[place[uid]], plan.ends[place[uid]] + 1))
        assert rows[-1] == plan.roots[place[uid]]
    assert all(a.step <= b.step for a, b in itertools.pairwise(plan.turns))
    for step in (0, len(plan.chains) // 2):
        sums = plan.sums_of(step)
        held = {uid for uid, at in place.items() if plan.begins[at] <= step <= plan.ends[at]}
        assert held <= set(sums)


@given(seed=st.integers(0, 999), budget=st.sampled_from([0.0, 1e9]), dtype=st.sampled_from(["float32", "float64"]))
@settings(max_examples=25)
def test_who_waits_has_the_answer_that_it_has_alone(seed: int, budget: float, dtype: str) -> None:
    reservoir = make(dtype=dtype, spectral_radius=0.5)
    batch = [(text(length, seed + i), 3) for i, length in enumerate(log_normal(seed))]
    for item, features in zip(batch, compute(reservoir, batch, budget), strict=True):
        np.testing.assert_allclose(features, compute(reservoir, [item])[0], rtol=0, atol=2e-6 if dtype == "float32" else 1e-12)


@given(
    seed=st.integers(0, 999),
    script=st.lists(st.tuples(st.sampled_from(["admit", "advance", "advance", "drop"]), st.integers(1, 12)), min_size=1, max_size=12),
    depths=st.sampled_from([(3,), (3, 2), (2, 3)]),
)
@settings(max_examples=40)
def test_admissions_and_drops_while_some_wait_change_no_answer(seed: int, script: list[tuple[str, int]], depths: tuple[int, ...]) -> None:
    reservoir = make(dtype="float64", spectral_radius=0.5)
    lengths = iter(log_normal(seed, 400, 12.0))
    run, items, found, dropped = reservoir.start(), list[tuple[Tree, int]](), dict[int, Features](), set[int]()
    depth = itertools.cycle(depths)

    def admit(count: int) -> None:
        admitted = next(depth)
        new = [(text(next(lengths), seed + len(items) + i), admitted) for i in range(count)]
        run.admit([RunItem(len(items) + i, tree, depth) for i, (tree, depth) in enumerate(new)])
        items.extend(new)

    def advance() -> None:
        for result in run.advance(0.0):
            assert isinstance(result.features, np.ndarray)
            found[result.id] = result.features

    admit(24)
    for what, count in script:
        if what == "admit":
            admit(count)
        elif what == "drop":
            dropped |= {count} - found.keys()
            run.drop([count])
        else:
            for _ in range(count):
                advance()
    while run.active:
        advance()
    assert found.keys() == set(range(len(items))) - dropped
    assert run.nodes_done >= sum(tree.nodes for i, (tree, _) in enumerate(items) if i not in dropped)
    for i, features in found.items():
        np.testing.assert_allclose(features, compute(reservoir, [items[i]])[0], rtol=0, atol=1e-12)


def test_who_has_waited_once_is_not_made_to_wait_again() -> None:
    reservoir = make(depth=1)
    run = reservoir.start()
    lengths = log_normal(3)
    run.admit([RunItem(i, text(length, i), 1) for i, length in enumerate(lengths)])
    run.advance(0.0)
    run.admit([RunItem(100 + i, text(length, i), 1) for i, length in enumerate(lengths)])
    run.advance(0.0)
    ended = {result.id for _ in range(max(lengths) - 1) for result in run.advance(0.0)}
    assert set(range(32)) <= ended, "all of the first admission end within the steps that the longest of them takes"


def test_what_is_left_counts_the_wait() -> None:
    stack = make(depth=1).stack
    parts = [Part(uid, text(length), 0, patient=True) for uid, length in enumerate(log_normal(3))]
    batch = Batch(stack, parts, [1] * len(parts))
    plan = pack(parts, turns=True)
    assert plan.turns
    longest = max(batch.cost_until(part.uid) for part in parts)
    for turn in plan.turns:
        following = plan.uids[turn.row]
        assert batch.cost_until(plan.uids[turn.ended]) < batch.cost_until(following) <= longest
        assert batch.levels(following) == 0


def test_nobody_waits_after_a_hurry_and_the_answers_stay() -> None:
    reservoir = make(dtype="float64")
    batch = [(text(length, i), 3) for i, length in enumerate(log_normal(3))]
    for slices in (0, 3):
        run, found = reservoir.start(), dict[int, Features]()
        run.admit([RunItem(i, tree, depth) for i, (tree, depth) in enumerate(batch)])
        assert run.waiting()
        for left in range(slices + 1000, 0, -1):
            if left == 1000:
                run.hurry()
                assert not run.waiting()
            found |= {result.id: result.features for result in run.advance(0.0)}  # type: ignore[misc]
            if not run.active:
                break
        for i, item in enumerate(batch):
            np.testing.assert_allclose(found[i], compute(reservoir, [item])[0], rtol=0, atol=1e-12)
