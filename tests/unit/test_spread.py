"""Which process takes which file: the shared cluster is one process's, as long as there is anything else to do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.spread import OWN, chosen, kind

SHARED = [f"tests/cluster/test_{name}.py" for name in ("crd", "operator_kill", "plan")]
OTHERS = [f"tests/unit/batching/test_{name}.py" for name in ("queue", "windows")] + ["tests/integration/test_http_api.py"]
FILES = [*SHARED, *(f"tests/cluster/{name}.py" for name in OWN), *OTHERS]


@given(st.lists(st.sampled_from(FILES), min_size=1, unique=True), st.integers(1, 5))
def test_only_the_first_process_takes_what_shares_the_cluster_while_there_is_something_else(files: list[str], process: int) -> None:
    taken = chosen(files, process)
    assert taken in files
    assert kind(taken) != "shared" or {kind(file) for file in files} == {"shared"}


def test_each_process_begins_with_a_kind_of_its_own() -> None:
    assert [kind(chosen(FILES, process)) for process in range(4)] == ["shared", "own", "other", "other"]


@given(st.permutations(FILES), st.integers(0, 3))
def test_of_its_kind_a_process_takes_the_first(files: list[str], process: int) -> None:
    taken = chosen(files, process)
    assert taken == next(file for file in files if kind(file) == kind(taken))
