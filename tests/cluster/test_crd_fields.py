"""What the API server refuses by itself, and that it says where: bad values, broken rules, unknown fields, names."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import pytest
from msgspec import Struct
from tests.cluster.dry_runs import DryRuns
from tests.contract.spec_values import REQUIRED, Spot, bad_values, placed, sections, spots
from tests.contract.test_spec_rules import BROKEN, RULES

from dtesn_api.schema import Rule, wire_name

SPOTS = list(spots())
SECTIONS = {spot.path.rpartition(".")[0]: spot.section for spot in SPOTS}


def json_can_say(value: object) -> bool:
    """Whether a request can carry it: no NaN, nothing infinite, and what no float holds is broken JSON to the API server."""
    return not isinstance(value, (int, float)) or (abs(value) < 1e308 and isfinite(value))


def section_path(section: type[Struct]) -> str:
    """Where the section stands first: `spec.load.prometheus[0]`."""
    return next(path for path, one in SECTIONS.items() if one is section)


def with_section(section: type[Struct], content: dict[str, Any]) -> dict[str, Any]:
    """The spec that has this content in the section, and around it only what is required."""
    path = section_path(section)
    while path != "spec":
        path, _, name = path.rpartition(".")
        placed = {name.removesuffix("[0]"): [content]} if name.endswith("[0]") else {name: content}
        content = REQUIRED.get(SECTIONS[path].__name__, {}) | placed
    return content


def test_a_bad_value_is_there_for_every_field() -> None:
    free = {spot.path for spot in SPOTS if not [bad for bad in bad_values(spot.field.kind) if json_can_say(bad)]}
    assert free == set()


@pytest.mark.parametrize("spot", SPOTS, ids=lambda spot: spot.path)
def test_a_bad_value_is_refused_and_the_answer_names_the_field(dry_runs: DryRuns, spot: Spot) -> None:
    for bad in filter(json_can_say, bad_values(spot.field.kind)):
        answer = dry_runs.create(placed(spot, bad))
        assert answer.code == 422, (bad, answer)
        assert [path for path in answer.causes if re.match(re.escape(spot.path) + r"($|[.\[])", path)], (bad, answer.causes)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_an_unknown_field_is_refused_and_named(dry_runs: DryRuns, section: type[Struct]) -> None:
    answer = dry_runs.create(with_section(section, {**REQUIRED.get(section.__name__, {}), "surprise": 1}))
    assert answer.code == 400
    assert f'unknown field "{section_path(section)}.surprise"' in answer.message


@pytest.mark.parametrize("section", [one for one in sections() if one.__name__ in REQUIRED], ids=lambda section: section.__name__)
def test_a_required_field_that_is_absent_is_named(dry_runs: DryRuns, section: type[Struct]) -> None:
    required = REQUIRED[section.__name__]
    for name in required:
        answer = dry_runs.create(with_section(section, {other: value for other, value in required.items() if other != name}))
        assert answer.causes.get(f"{section_path(section)}.{name}") == "Required value"


@pytest.mark.parametrize(("section", "rule"), RULES)
def test_a_broken_rule_is_refused_in_a_sentence_that_names_its_fields(dry_runs: DryRuns, section: type[Struct], rule: Rule) -> None:
    answer = dry_runs.create(with_section(section, REQUIRED.get(section.__name__, {}) | BROKEN[rule.name]))
    assert answer.code == 422
    names = [".".join(wire_name(part) for part in name.split(".")) for name in rule.fields]
    sentence = answer.causes[f"{section_path(section)}.{names[0]}"]
    for name in names:
        assert re.search(rf"\b{re.escape(name)} \(.+?\)", sentence)
    assert not re.search(r"[{}]|%s|[a-z]_[a-z]", sentence.replace("load_aware", ""))
