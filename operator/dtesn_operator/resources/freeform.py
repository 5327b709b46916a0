"""What the user writes in Kubernetes's own words, on its way into an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def copied(value: Any) -> Any:
    """A deep copy without null, which stands for absent. Empty objects stay: `podSelector: {}` is every pod."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items() if item is not None}
    return [copied(item) for item in value if item is not None] if isinstance(value, (list, tuple)) else value


def without_empty_lists(value: Any) -> Any:
    """The same without empty lists, which in a pod say nothing and come back from the API server as absent."""
    if isinstance(value, dict):
        return {key: without_empty_lists(item) for key, item in value.items() if item != []}
    return [without_empty_lists(item) for item in value] if isinstance(value, list) else value
