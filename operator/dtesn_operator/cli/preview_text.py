"""A preview as text for people, with colours on a terminal, and as JSON for programs."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from dtesn_operator.differences import Difference
from dtesn_operator.kinds import CONFIG_MAP, DEPLOYMENT
from dtesn_operator.preview import Change, Fate, Preview

_SIGNS: Final[dict[Fate, tuple[str, str]]] = {
    "create": ("+", "green"),
    "change": ("~", "yellow"),
    "delete": ("-", "red"),
    "keep": ("=", "dim"),
    "conflict": ("!", "bold red"),
    "wait": (".", "cyan"),
}
_WORDS: Final[dict[Fate, str]] = {
    "create": "to create",
    "change": "to change",
    "delete": "to delete",
    "keep": "as wanted",
    "conflict": "in conflict",
    "wait": "to come later",
}
_CONTEXT: Final = 1  # lines shown around a changed line of a text


def print_text(previews: Sequence[Preview]) -> None:
    """Each resource with what it owns, and a summary."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for one in previews:
        for line in _lines(one):
            console.print(line)
        console.print()
    counted = Counter(change.fate for one in previews for change in (one.resource, *one.owned))
    parts = [f"{counted[fate]} {words}" for fate, words in _WORDS.items() if counted[fate]]
    console.print(Text(", ".join(parts) + "."))


def print_json(previews: Sequence[Preview]) -> None:
    """The same as one JSON object."""
    counted = Counter(change.fate for one in previews for change in (one.resource, *one.owned))
    print(json.dumps({"resources": [_resource(one) for one in previews], "summary": {fate: counted[fate] for fate in _SIGNS}}, indent=2))


def _resource(one: Preview) -> dict[str, Any]:
    return {
        "namespace": one.resource.key.namespace,
        "name": one.resource.key.name,
        "paused": one.paused,
        "troubles": [{"reason": trouble.reason.value, "message": trouble.sentence} for trouble in one.troubles],
        "objects": [_object(change) for change in (one.resource, *one.owned)],
    }


def _object(change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {
        "apiVersion": change.key.kind.api_version,
        "kind": change.key.kind.kind,
        "namespace": change.key.namespace,
        "name": change.key.name,
        "action": change.fate,
        "effect": effect(change),
        "fields": [{"path": list(one.path), "text": one.text, "before": one.before, "after": one.after} for one in change.differences],
    }
    return found if change.manifest is None else {**found, "manifest": change.manifest}


def effect(change: Change) -> str:
    """What a change means for running pods, or nothing."""
    if change.fate != "change":
        return ""
    if change.key.kind == CONFIG_MAP and any(one.path[0] == "data" for one in change.differences):
        return "running pods take it up without a restart"
    if change.key.kind == DEPLOYMENT and any(one.path[:2] == ("spec", "template") for one in change.differences):
        return "its pods are replaced"
    return ""


def _lines(one: Preview) -> Iterator[Text]:
    yield from _object_lines(one.resource, f"{one.resource.key.kind.kind} {one.resource.key.namespace}/{one.resource.key.name}", "")
    for change in one.owned:
        yield from _object_lines(change, f"{change.key.kind.kind} {change.key.name}", "  ")
    if one.paused:
        yield Text("  it would be paused: nothing that it owns is touched", "cyan")
    for trouble in one.troubles:
        yield Text(f"  Degraded, {trouble.reason}: {trouble.sentence}", "bold red")


def _object_lines(change: Change, words: str, indent: str) -> Iterator[Text]:
    sign, style = _SIGNS[change.fate]
    said = effect(change)
    yield Text(f"{indent}{sign} {words}" + (f" ({said})" if said else ""), style)
    if change.fate == "change" and not change.differences:
        yield Text(f"{indent}    no field, but the record of what was applied", "dim")
    for one in change.differences:
        yield from _field_lines(one, f"{indent}    ")


def _field_lines(one: Difference, indent: str) -> Iterator[Text]:
    if isinstance(one.before, str) and isinstance(one.after, str) and "\n" in one.before + one.after:
        yield Text(f"{indent}{one.text}:")
        compared = difflib.unified_diff(one.before.splitlines(), one.after.splitlines(), lineterm="", n=_CONTEXT)
        for line in list(compared)[2:]:
            yield Text(f"{indent}  {line}", {"+": "green", "-": "red"}.get(line[:1], "dim"))
    elif one.before is None:
        yield Text(f"{indent}{one.text}: {_shown(one.after)}", "green")
    elif one.after is None:
        yield Text(f"{indent}{one.text}: {_shown(one.before)} -> nothing", "red")
    else:
        yield Text.assemble(f"{indent}{one.text}: ", (_shown(one.before), "red"), " -> ", (_shown(one.after), "green"))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
