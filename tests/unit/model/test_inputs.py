from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtesn_sidecar.errors import DTESNError, InvalidInput, RequestTooLarge
from dtesn_sidecar.model.inputs import INPUT_FORMATS, parse_input
from dtesn_sidecar.model.trees import Tree

NAN, INF = float("nan"), float("inf")
HASH_OF_RESERVOIR = 0xD2830676E7EC4895


def shape_of(tree: Tree) -> object:
    """The tree as nested frozen multisets of labels: equal for trees that differ in the order of children alone."""
    parents, _ = tree.links
    below: list[list[object]] = [[] for _ in range(tree.nodes)]
    for node in range(tree.nodes):
        shape = (tree.labels[node].tobytes(), tuple(sorted(map(repr, below[node]))))
        if parents[node] < 0:
            return shape
        below[parents[node]].append(shape)
    raise AssertionError("no root")


def test_text_is_a_chain_of_bytes_from_leaf_to_root() -> None:
    tree = parse_input("añb")
    assert (tree.kind, tree.is_chain, tree.nodes, tree.height, tree.levels) == ("byte", True, 4, 3, 4)
    assert tree.labels.tobytes() == "añb".encode()


def test_a_series_is_a_chain_of_vectors_and_a_flat_list_is_one_channel() -> None:
    assert parse_input([[1, 2], [3, 4.5]]).labels.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    assert parse_input([1, 2.5]).labels.tolist() == [[1.0], [2.5]]
    assert parse_input(np.array([[1, 2]], dtype=np.float32)).labels.tolist() == [[1.0, 2.0]]


def test_the_nested_and_the_flat_form_of_a_tree_are_the_same_tree() -> None:
    nested = parse_input({"label": 1, "children": [{"label": 2, "children": [{"label": 4}]}, {"label": 3}]})
    flat = parse_input({"labels": [1, 2, 3, 4], "parents": [-1, 0, 0, 1]})
    shuffled = parse_input({"labels": [4, 3, 1, 2], "parents": [3, 2, -1, 2]})
    assert shape_of(nested) == shape_of(flat) == shape_of(shuffled)
    assert (nested.nodes, nested.height, nested.degree) == (4, 2, 2)


def test_auto_takes_the_format_from_the_type() -> None:
    assert parse_input("a").kind == "byte"
    assert parse_input([1.0]).kind == "vector"
    assert parse_input({"label": 1.0}).kind == "vector"
    assert parse_input({"labels": [1.0], "parents": [-1]}).kind == "vector"
    assert parse_input({"other": 1.0}).kind == "hash"


def test_keys_of_an_object_are_unordered_but_positions_in_an_array_count() -> None:
    assert shape_of(parse_input({"a": 1, "b": 2}, "json")) == shape_of(parse_input({"b": 2, "a": 1}, "json"))
    assert shape_of(parse_input([1, 2], "json")) != shape_of(parse_input([2, 1], "json"))


@pytest.mark.parametrize(
    ("one", "other"), [(1, "1"), (None, "null"), (True, 1), ([], {}), ({"a": 1}, {"b": 1}), ({"0": 1}, [1]), (0.5, 0.25)]
)
def test_json_values_of_other_type_key_or_value_have_other_labels(one: object, other: object) -> None:
    assert shape_of(parse_input({"x": one}, "json")) != shape_of(parse_input({"x": other}, "json"))


def test_equal_numbers_hash_equally_and_a_changed_value_keeps_half_of_its_label() -> None:
    assert shape_of(parse_input({"a": 1}, "json")) == shape_of(parse_input({"a": 1.0}, "json"))
    before, after = parse_input({"a": 1}, "json").labels[0], parse_input({"a": 2}, "json").labels[0]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_json_text_and_the_decoded_document_are_the_same_tree() -> None:
    document = {"a": [1, {"b": None}], "c": "x"}
    assert shape_of(parse_input(json.dumps(document), "json")) == shape_of(parse_input(document, "json"))


def test_hashes_are_the_same_in_every_process_and_version() -> None:
    assert parse_input({"label": "reservoir"}).labels.tolist() == [[HASH_OF_RESERVOIR]]


def test_xml_labels_hold_tag_place_attributes_and_text() -> None:
    tree = parse_input("<a x='1'> <b>t</b><b>u</b> </a>", "xml")
    assert (tree.nodes, tree.height) == (4, 1)
    same = "<a x='1'>\n<b> t </b><b>u</b></a>"
    assert shape_of(parse_input(same, "xml")) == shape_of(tree)
    for other in (
        "<a x='1'><b>u</b><b>t</b></a>",
        "<a x='2'><b>t</b><b>u</b></a>",
        "<a y='1'><b>t</b><b>u</b></a>",
        "<a x='1'><b>t</b><c>u</c></a>",
    ):
        assert shape_of(parse_input(other, "xml")) != shape_of(tree)


BOMB = '<!DOCTYPE b [<!ENTITY a0 "x">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)) + "]><b>&a9;</b>"


@pytest.mark.parametrize(
    "document",
    [
        BOMB,
        "<!DOCTYPE a><a/>",
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1/">]><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1/"> %x;]><a/>',
        "<a>&unknown;</a>",
        "<a>",
        "",
        "text",
        "<a/><b/>",
        "<a \ud800/>",
        b"<?xml version='1.0' encoding='nonsense'?><a/>",
        b"<?xml version='1.0' encoding='rot13'?><a/>",
        b"\xff\xfe",
    ],
)
def test_xml_with_a_document_type_entities_or_faults_is_refused(document: str | bytes) -> None:
    with pytest.raises(InvalidInput, match="input_data"):
        parse_input(document, "xml")


@pytest.mark.parametrize(
    ("data", "input_format", "field", "said"),
    [
        ("", "auto", "input_data", "at least one byte"),
        ("\ud800", "auto", "input_data", "Unicode"),
        (b"\xff", "text", "input_data", "Unicode"),
        (5, "auto", "input_data", "a string, an array or an object"),
        (None, "auto", "input_data", "null"),
        ("x", "yaml", "input_format", "auto, text, series, tree, json, xml"),
        ([], "auto", "input_data", "empty"),
        ([1, "2"], "auto", "input_data[1]", "'2'"),
        ([1, True], "auto", "input_data[1]", "true"),
        ([1, NAN], "auto", "input_data[1]", "nan"),
        ([[1, 2], [3, INF]], "auto", "input_data[1][1]", "inf"),
        ([[1, 2], [3, -1e31]], "auto", "input_data[1][1]", "-1e+31"),
        ([[1, 2], [3, 10**400]], "auto", "input_data[1][1]", "bits"),
        ([[1, 2], [3]], "auto", "input_data[1]", "of 1 values, expected 2 values"),
        ([[]], "auto", "input_data[0]", "of 0 values"),
        ([[0] * 1025], "auto", "input_data[0]", "1..1024"),
        ([[1], 2], "auto", "input_data[1]", "an array"),
        ([1, [2]], "auto", "input_data[1]", "an array"),
        (["a"], "auto", "input_data[0]", "'a'"),
        ("x", "series", "input_data", "an array"),
        (np.array(["a"]), "series", "input_data", "<U1"),
        (np.empty((0, 2)), "series", "input_data", "empty"),
        (np.array([[1.0, NAN]]), "series", "input_data[0][1]", "nan"),
        (np.zeros((1, 1025)), "series", "input_data", "1025 channels"),
        ([1], "tree", "input_data", "an object"),
        ({}, "tree", "input_data.label", "absent"),
        ({"label": 1, "childs": []}, "tree", "input_data", "unknown field childs"),
        ({"label": None}, "tree", "input_data.label", "null"),
        ({"label": []}, "tree", "input_data.label", "of width 0"),
        ({"label": 1, "children": {}}, "tree", "input_data.children", "an object"),
        ({"label": 1, "children": [{"label": 2}, 3]}, "tree", "input_data.children[1]", "3"),
        ({"label": 1, "children": [{"label": [1, 2]}]}, "tree", "input_data.children[0].label", "of width 2, expected width 1"),
        ({"label": "a", "children": [{"label": 1}]}, "tree", "input_data.children[0].label", "a string, as the first label is"),
        ({"label": [1], "children": [{"label": ["a"]}]}, "tree", "input_data.children[0].label[0]", "'a'"),
        ({"label": 1, "children": [{"children": [], "label": NAN}]}, "tree", "input_data.children[0].label", "nan"),
        ({"labels": [], "parents": []}, "tree", "input_data.labels", "empty"),
        ({"labels": [1]}, "tree", "input_data.parents", "null"),
        ({"parents": [-1]}, "tree", "input_data.labels", "null"),
        ({"labels": [1], "parents": [-1], "x": 1}, "tree", "input_data", "unknown field x"),
        ({"labels": [1, 2], "parents": [-1]}, "tree", "input_data.parents", "1 entries for 2 labels"),
        ({"labels": [1, 2], "parents": [-1, 2]}, "tree", "input_data.parents[1]", "0..1"),
        ({"labels": [1, 2], "parents": [-1, 0.0]}, "tree", "input_data.parents[1]", "0..1"),
        ({"labels": [1, 2], "parents": [-1, True]}, "tree", "input_data.parents[1]", "true"),
        ({"labels": [1, 2], "parents": [-1, -1]}, "tree", "input_data.parents", "2 roots"),
        ({"labels": [1, 2], "parents": [1, 0]}, "tree", "input_data.parents", "0 roots"),
        ({"labels": [1, 2, 3], "parents": [-1, 2, 1]}, "tree", "input_data.parents[1]", "cycle"),
        ({"labels": [1, 2], "parents": [-1, 1]}, "tree", "input_data.parents[1]", "cycle"),
        ({"a": {"b": [0, NAN]}}, "auto", "input_data.a.b[1]", "nan"),
        ({1: 2}, "json", "input_data", "keys that are strings"),
        ({"a": object()}, "json", "input_data.a", "a JSON value"),
        ("{", "json", "input_data", "no JSON"),
        ('"\ud800"', "json", "input_data", "no JSON"),
        (5, "xml", "input_data", "XML"),
    ],
)
def test_a_wrong_input_names_the_field_the_value_and_what_may_stand_there(data: object, input_format: str, field: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_input(data, input_format)
    assert caught.value.field == field
    assert said in caught.value.detail
    assert field in caught.value.detail
    assert caught.value.expected


@pytest.mark.parametrize(
    ("data", "input_format", "count"),
    [
        ("x" * 11, "text", 11),
        (list(range(11)), "series", 11),
        (np.zeros((11, 1)), "series", 11),
        ({"labels": [1] * 11, "parents": [-1] + [0] * 10}, "tree", 11),
        ({"label": 1, "children": [{"label": 2, "children": [{"label": 3}] * 5}] * 2}, "tree", 13),
        ({"a": list(range(9)), "b": {"c": 1}}, "json", 13),
        ("<a x='1'>" + "<b/>" * 9 + "</a>", "xml", 11),
    ],
)
def test_too_many_nodes_are_refused_with_their_number(data: object, input_format: str, count: int) -> None:
    with pytest.raises(RequestTooLarge, match=f"{count} nodes, at most 10"):
        parse_input(data, input_format, max_nodes=10)
    assert parse_input(data, input_format, max_nodes=count).nodes == count


def test_a_document_that_never_ends_is_not_counted_to_its_end() -> None:
    wide: object = 1
    for _ in range(30):
        wide = [wide] * 10
    with pytest.raises(RequestTooLarge, match="more than 1000000 nodes"):
        parse_input({"a": wide}, "json")


def nested(levels: int) -> dict[str, object]:
    tree: dict[str, object] = {"label": 1}
    for _ in range(levels - 1):
        tree = {"label": 1, "children": [tree]}
    return tree


def test_nesting_beyond_400_levels_is_refused_and_names_the_flat_form() -> None:
    assert parse_input(nested(200)).height == 199  # a level of the tree is an object and an array: 399 levels of JSON
    documents: list[object] = [1, 1]
    for i, levels in enumerate((400, 401)):
        for _ in range(levels):
            documents[i] = [documents[i]]
    assert parse_input(documents[0], "json").height == 400
    for data, input_format in ((nested(201), "tree"), (documents[1], "json"), ("[" * 100_000, "json")):
        with pytest.raises(InvalidInput, match=r'flat form \{"labels"'):
            parse_input(data, input_format)


def test_nesting_of_100_000_levels_neither_crashes_nor_recurses() -> None:
    deep: object = 1
    deep_tree: dict[str, object] = {"label": 1}
    for _ in range(100_000):
        deep, deep_tree = {"a": deep}, {"label": 1, "children": [deep_tree]}
    xml = "<a>" * 100_000 + "</a>" * 100_000
    flat = {"labels": [1.0] * 100_000, "parents": [*range(-1, 99_999)]}
    for data, input_format in ((deep, "json"), (deep_tree, "tree"), (xml, "xml"), (flat, "tree")):
        with pytest.raises(DTESNError) as caught:
            parse_input(data, input_format)
        assert caught.value.blames_input
    assert parse_input(xml, "xml", max_nodes=100_000).height == 99_999
    assert parse_input(flat, "tree", max_nodes=100_000).is_chain
    while isinstance(deep, dict):  # taken apart by hand: freeing it would recurse
        deep = deep["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["label", "children", "labels", "parents", "a"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def parsed(data: object, input_format: str, max_nodes: int) -> Tree | DTESNError:
    try:
        return parse_input(data, input_format, max_nodes=max_nodes)
    except DTESNError as error:
        return error


@given(data=json_values, input_format=st.sampled_from(["auto", *INPUT_FORMATS]), max_nodes=st.integers(1, 12))
@example(data={"label": 1, "children": [{"label": 10**400}]}, input_format="tree", max_nodes=9)
@example(data={"labels": [[1], 1], "parents": [-1, 0]}, input_format="auto", max_nodes=9)
def test_any_json_value_parses_or_raises_an_error_that_blames_the_input(data: object, input_format: str, max_nodes: int) -> None:
    outcome = parsed(data, input_format, max_nodes)
    if isinstance(outcome, DTESNError):
        assert outcome.blames_input
        assert len(outcome.detail) < 1000
    else:
        assert 1 <= outcome.nodes <= max_nodes
        assert outcome.levels == outcome.height + 1 <= outcome.nodes


@given(document=st.text(alphabet="<>/ab=' !&;?[x0\n\ud800é-", max_size=40) | st.text(max_size=20))
def test_any_string_as_xml_parses_or_raises_an_error_that_blames_the_input(document: str) -> None:
    outcome = parsed(document, "xml", 8)
    assert isinstance(outcome, Tree) or outcome.blames_input
