from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.compute.job import Job, size_and_depth, work_of
from dtesn_sidecar.compute.memory import MemoryBound
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.reservoir import run_bytes

MODEL = ModelConfiguration()


def work(text: str, depth: int = 4, size: int = 512) -> Work:
    return work_of(MODEL, Job(parse_input(text), depth, size))


def test_a_batch_may_take_eight_tenths_of_what_is_free_shared_by_the_idle_workers() -> None:
    bound = MemoryBound(MODEL, free=lambda: 1000, clock=lambda: 0.0)
    assert bound.cap(1) == 800
    assert bound.cap(2) == 400


def test_where_free_memory_is_not_known_there_is_no_cap() -> None:
    assert MemoryBound(MODEL, free=lambda: None, clock=lambda: 0.0).cap(1) is None


def test_free_memory_is_looked_up_at_most_four_times_a_second() -> None:
    now: list[float] = [0.0]
    looks: list[float] = []

    def free() -> int:
        looks.append(now[0])
        return 1000

    bound = MemoryBound(MODEL, free=free, clock=lambda: now[0])
    for tenth in range(11):
        now[0] = tenth / 10
        bound.cap(1)
    assert looks == [0.0, 0.3, 0.6, 0.9]


def test_the_bytes_of_a_batch_are_those_of_the_formula_for_its_deepest_item() -> None:
    works = [work("abc", 2), work("abcdef", 5)]
    assert MemoryBound(MODEL, free=lambda: None).bytes_of(works) == run_bytes([(3, 3), (6, 6)], 512, 5)
    double = ModelConfiguration(dtype="float64", order=4)
    assert MemoryBound(double, free=lambda: None).bytes_of(works) == run_bytes([(3, 3), (6, 6)], 512, 5, 8, 4)


@given(st.integers(1, 200), st.integers(1, 16), st.integers(32, 4096))
def test_work_counts_nodes_by_their_memory_at_another_size(length: int, depth: int, size: int) -> None:
    found = work("x" * length, depth, size)
    assert (found.nodes, found.levels) == (length, length)
    assert size_and_depth(found) == (size, depth)
    assert found.charge == (None if size == 512 else -(-length * size // 512))


def test_items_of_one_size_share_batches_whatever_their_depth() -> None:
    assert work("a", 1).shape == work("b", 7).shape != work("c", 1, 64).shape
    assert work("a", 1).model != work("b", 7).model


def test_work_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError):
        size_and_depth(Work())
