"""The page's files: nothing inline, nothing from elsewhere, nothing that reads text as HTML, and nothing missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from dtesn_sidecar.pages.files import HEADERS, PAGE, is_known, load

FILES = load()
SCRIPTS = {name: file.body.decode() for name, file in FILES.items() if name.endswith(".js")}


class Tags(HTMLParser):
    """Every tag with its attributes, and the text in scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("script", "style"):
            self.inline += data.strip()


@pytest.fixture(scope="module")
def tags() -> list[tuple[str, dict[str, str]]]:
    parser = Tags()
    parser.feed(FILES[PAGE].body.decode())
    return parser.found


def test_the_page_has_no_inline_script_style_or_handler(tags: list[tuple[str, dict[str, str]]]) -> None:
    for tag, attributes in tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)


def test_what_the_page_and_its_modules_name_is_there(tags: list[tuple[str, dict[str, str]]]) -> None:
    named = {value for tag, attributes in tags for name in ("src", "href") if tag != "a" and (value := attributes.get(name))}
    assert named
    assert named <= {f"assets/{name}" for name in FILES}
    for name, text in SCRIPTS.items():
        imported = re.findall(r'from "([^"]+)"|import\("([^"]+)"\)', text)
        for static, in_types in imported:
            assert (static or in_types).removeprefix("./") in FILES, (name, static or in_types)


def test_paths_are_relative_so_that_the_page_works_behind_a_proxys_prefix(tags: list[tuple[str, dict[str, str]]]) -> None:
    for _, attributes in tags:
        for name in ("src", "href", "action"):
            assert not attributes.get(name, "").startswith(("/", "http"))
    for name, text in SCRIPTS.items():
        assert not re.search(r'fetch\(\s*["\'`](/|http)|follow\(\s*["\']/', text), name


def test_no_module_reads_text_as_html_or_code() -> None:
    for name, text in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\"on", text), name


def test_every_element_that_a_module_asks_for_is_on_the_page(tags: list[tuple[str, dict[str, str]]]) -> None:
    there = {attributes["id"] for _, attributes in tags if "id" in attributes}
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= there, name
    for _, attributes in tags:
        for reference in ("aria-labelledby", "aria-describedby", "for"):
            assert set(attributes.get(reference, "").split()) <= there, attributes


def test_the_policy_allows_this_servers_own_files_alone() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {source for name, value in policy.items() if name.endswith("-src") for source in value.split()} == {"'none'", "'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize(
    ("header", "known"),
    [(None, False), ("", False), ('"a"', True), ('W/"a"', True), ('"b", W/"a"', True), ("*", True), ('"b"', False), ("a", False)],
)
def test_a_version_is_known_by_its_etag(header: str | None, known: bool) -> None:
    assert is_known('"a"', header) is known
