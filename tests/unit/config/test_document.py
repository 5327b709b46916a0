"""YAML and JSON of any origin to plain objects, or a refusal that says where."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dtesn_api.problems import SpecInvalid
from dtesn_sidecar.config.document import MAX_BYTES, MAX_DEPTH, parse_document


def parsed(text: str | bytes) -> Any:
    value, found = parse_document(text if isinstance(text, bytes) else text.encode(), "file.yaml")
    assert found == []
    return value


def refused(text: str | bytes) -> str:
    with pytest.raises(SpecInvalid) as caught:
        parse_document(text if isinstance(text, bytes) else text.encode(), "file.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 8", 8),
        ("a: -3", -3),
        ("a: 1e3", 1000.0),
        ("a: .5", 0.5),
        ("a: 5.", 5.0),
        ("a: ~", None),
        ("a:", None),
        ("a: 'null'", "null"),
        ("a: yes", True),
        ("a: Off", False),
        ("a: '8'", "8"),
        ("a: !!str 8", "8"),
        ("a: |\n  8\n", "8\n"),
        ("a: 010", "010"),
        ("a: 1:30", "1:30"),
        ("a: 2026-01-01", "2026-01-01"),
        ("a: -.inf", float("-inf")),
        ("a: {80: b}", {"80": "b"}),
        ("a: [1, [2], {b: 3}]", [1, [2], {"b": 3}]),
        ("x: &x {b: 1, c: 2}\na: {<<: *x, c: 3}", {"b": 1, "c": 3}),
        ("x: &x {b: 1}\ny: &y {b: 2, d: 4}\na: {<<: [*x, *y]}", {"b": 1, "d": 4}),
        ("x: &x [1]\na: [*x, *x]", [[1], [1]]),
        ("\ufeffa: 1", 1),
        ('{"a": 1.5}', 1.5),
        ('\t{"a":\t1}', 1),
        ("{a: 1}", 1),
    ],
)
def test_yaml_becomes_what_a_manifest_is_made_of(text: str, value: object) -> None:
    result = parsed(text)["a"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a: \xff", "byte 0xff at 3"),
        (b"a: b: c", "file.yaml:1:5 is not YAML or JSON"),
        (b"a: [1", "is not YAML or JSON"),
        (b"a: \x01", "is not YAML or JSON|must be YAML or JSON"),
        (b"a: 1\n---\na: 2", "a second document"),
        (b"a: !!python/object/apply:os.system [x]", "must be without a tag"),
        (b"a: !!binary aGk=", "must be without a tag"),
        (b"a: &a [*a]", r"the alias \*a"),
        (b"a: *b", "alias"),
        (b"a: {<<: 3}", "to merge"),
        (b"? [1]\n: 2", "since it is a key"),
        (b"x" * (MAX_BYTES + 1), f"at most {MAX_BYTES} bytes"),
        (b"- 1\n" * 100_001, "at most 100000 values"),
    ],
)
def test_what_is_not_a_document_is_refused_with_its_place(text: bytes, words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        parse_document(text, "file.yaml")


@pytest.mark.parametrize("bracket", ["[", "{a: ", '{"a":', "- "])
def test_nesting_that_would_crash_a_recursive_parser_is_refused(bracket: str) -> None:
    assert "nested too deep" in refused(bracket * 200_000 if bracket != '{"a":' else bracket * 100_000)
    closing = {"[": "]", "{a: ": "}", '{"a":': "}", "- ": ""}[bracket]
    parsed(bracket * (MAX_DEPTH - 1) + "1" + closing * (MAX_DEPTH - 1))


def test_an_alias_bomb_is_refused_before_it_is_written_out() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    assert "repeated by aliases too often" in refused("\n".join(lines))
    lines = ["a0: &a0 {k0: 1}"] + [f"a{i}: &a{i} {{<<: [" + ", ".join([f"*a{i - 1}"] * 9) + f"], k{i}: 1}}" for i in range(1, 40)]
    assert "repeated by aliases too often" in refused("\n".join(lines))


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\nb: 4\n", '{"a": 1, "b": 2, "a": 3, "b": 4}'])
def test_every_key_that_is_given_twice_is_named(text: str) -> None:
    value, found = parse_document(text.encode(), "file.yaml")
    assert value == {"a": 3, "b": 4}
    assert [problem.value for problem in found] == ["a", "b"]
    assert all("given more than once" in problem.message for problem in found)


# PyYAML folds the rarer line breaks when it writes them, and leaves 0E0 unquoted, which is a string to it alone.
texts = st.text(st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="\x85\u2028\u2029"), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=12)


@given(st.dictionaries(texts, values))
def test_what_yaml_and_json_write_is_read_back(value: dict[str, Any]) -> None:
    assert parsed(json.dumps(value)) == value
    assert parsed(yaml.safe_dump(value, allow_unicode=True)) == value


@given(st.text(max_size=60) | st.text(alphabet="{}[]:,-&*!|>'\" \n#ab1?<", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_document(text.encode("utf-8", "surrogatepass"), "file.yaml")
    except SpecInvalid as error:
        words = str(error)
    else:
        return
    assert words.startswith("file.yaml")
