from __future__ import annotations

import numpy as np
from hypothesis import given
from tests.unit.model.models import trees

from dtesn_sidecar.model.trees import Tree


@given(tree=trees())
def test_a_packed_tree_unpacks_to_itself_without_a_copy(tree: Tree) -> None:
    header, buffers = tree.pack()
    joined = [bytearray(buffer) for buffer in buffers]
    back = Tree.unpack(header, joined)
    assert (back.kind, back.nodes, back.levels, back.width) == (tree.kind, tree.nodes, tree.levels, tree.width)
    np.testing.assert_array_equal(back.labels, tree.labels)
    for mine, theirs in zip(back.links, tree.links, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for array, buffer in zip((back.labels, back.parents, back.level_sizes), joined, strict=False):
        assert array is not None
        assert np.shares_memory(array, np.frombuffer(buffer, dtype=np.uint8))


@given(tree=trees())
def test_levels_run_from_the_deepest_to_the_root_and_parents_stand_in_the_next(tree: Tree) -> None:
    parents, sizes = tree.links
    level = np.repeat(np.arange(tree.levels), sizes)
    assert parents[-1] == -1
    assert sizes[-1] == 1
    np.testing.assert_array_equal(level[parents[:-1]], level[:-1] + 1)
    assert tree.is_chain == (tree.degree <= 1)
    assert tree.degree == max(np.bincount(parents[:-1], minlength=1))
