"""The DTESNBatchers of a file, for the commands that take one: several YAML documents, or JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from dtesn_api.problems import Problem, SpecInvalid, problem
from dtesn_operator.batcher import Batcher, batcher_of
from dtesn_operator.kinds import Manifest

STDIN: Final = Path("-")
_NAMESPACE: Final = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_NUMBER: Final = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


def read_batchers(file: Path, namespace: str | None = None) -> list[Batcher]:
    """Every resource in the file, or of the standard input for `-`. One that names no namespace is put into `namespace`.

    Raises `SpecInvalid` with every problem of every document, also where the file cannot be read.
    """
    return [batcher_of(manifest) for manifest in read_manifests(file, namespace)]


def read_manifests(file: Path, namespace: str | None = None) -> list[Manifest]:
    """The same as manifests: what the file says and the namespace, and nothing more. Raises `SpecInvalid` as `read_batchers` does."""
    found: list[Problem] = []
    manifests: list[Manifest] = []
    documents = _documents(file)
    for number, document in enumerate(documents, 1):
        try:
            manifests.append(_manifest(document, namespace))
        except SpecInvalid as error:
            found += [located(one, _where(document, number)) for one in error.problems] if len(documents) > 1 else error.problems
    if not documents:
        found.append(_broken(str(file), "empty", "a DTESNBatcher manifest"))
    if found:
        raise SpecInvalid(found)
    return manifests


def located(one: Problem, where: str) -> Problem:
    """The problem with the resource that it is of."""
    return Problem(field=one.field, value=one.value, expected=one.expected, message=f"{where}: {one.message}")


def _manifest(document: object, namespace: str | None) -> Manifest:
    if not isinstance(document, Mapping):
        raise SpecInvalid([problem("the document", document, "an object")])
    metadata = document.get("metadata")
    given = metadata.get("namespace") if isinstance(metadata, Mapping) else None
    wanted = given or namespace or "default"
    if not (isinstance(wanted, str) and _NAMESPACE.match(wanted)):
        raise SpecInvalid([problem("metadata.namespace", wanted, "a DNS label of at most 63 characters")])
    batcher_of(document)
    return {**document, "metadata": {**document["metadata"], "namespace": wanted}}


def _where(document: object, number: int) -> str:
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) and name else f"document {number}"


def _documents(file: Path) -> list[object]:
    """The documents but the empty ones."""
    name = "the standard input" if file == STDIN else str(file)
    try:
        text = (sys.stdin.buffer.read() if file == STDIN else file.read_bytes()).decode("utf-8-sig")
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except OSError as error:
        raise SpecInvalid([_broken(name, f"not readable ({error.strerror or error})", "a file that can be read")]) from None
    except UnicodeDecodeError:
        raise SpecInvalid([_broken(name, "not UTF-8", "UTF-8 text")]) from None
    except RecursionError:
        raise SpecInvalid([_broken(name, "nested too deep", "a manifest")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecInvalid([_broken(name, f"not YAML: {' '.join(str(error).split())}", "YAML or JSON")]) from None


def _broken(name: str, words: str, expected: str) -> Problem:
    return Problem(field=name, value=None, expected=expected, message=f"{name} is {words}, but must be {expected}")


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: no dates, `1e3` is a number, each key once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises yaml.constructor.ConstructorError where a key is given twice."""
        self.flatten_mapping(node)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given more than once", node.value[i][0].start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
