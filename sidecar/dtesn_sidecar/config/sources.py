"""Where settings come from, and which counts: flag, then `DTESN_SECTION_FIELD` in the environment, then file, then default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from dtesn_api.names import ENV_PREFIX
from dtesn_api.problems import Problem, SpecInvalid
from dtesn_api.reading import field_problems, nearest, read
from dtesn_api.schema import FieldSchema, environment_name, options, walk
from dtesn_api.spec import DTESNBatcherSpec, spec_of
from dtesn_sidecar.config.document import MAX_BYTES, parse_document

# What Kubernetes (and Docker before it) puts into the environment for a Service whose name begins with `dtesn`, such as
# the very Service before these pods: DTESN_SERVICE_HOST, DTESN_PORT_80_TCP_ADDR, DTESN_DEMO_PORT=tcp://10.0.0.7:80.
_SERVICE_LINK = re.compile(r"^DTESN_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)\Z")
_SERVICE_ADDRESS = re.compile(r"^(?:tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A valid specification, the file it came from and the SHA-256 of that file's bytes (both None without a file)."""

    spec: DTESNBatcherSpec
    source: Path | None = None
    config_hash: str | None = None


@cache
def environment_settings() -> dict[str, tuple[str, FieldSchema]]:
    """Every setting that the environment can hold: variable -> (dotted wire path, field). What only the operator reads has none."""
    return {
        environment_name(place.path): (place.path, place.field)
        for place in walk(DTESNBatcherSpec)
        if place.applies != "operator" and place.field.section is None
    }


def load_configuration(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Configuration:
    """The configuration out of all sources.

    `file` holds a DTESNBatcher manifest, its `spec`, or a part of it (a mounted ConfigMap holds `batching` and `load`
    only), as YAML or JSON. `environ` may hold other variables; of those that begin with `DTESN_` each must be a
    setting, service links aside. `flags` maps dotted wire paths (`sidecar.port`) to values; None is not given.

    Raises `SpecInvalid` with every problem of the file, the environment and the flags; also where the file cannot be read.
    """
    found: list[Problem] = []
    raw: object = {}
    digest = None
    if file is not None:
        try:
            data = _bytes(file)
            digest = sha256(data).hexdigest()
            document, twice = parse_document(data, str(file))
            raw, around = spec_of(document)
            found += [*twice, *around, *field_problems(DTESNBatcherSpec, raw, "spec")]
        except SpecInvalid as error:
            found += error.problems
    given, unknown = _from_environment(environ)
    found += unknown
    given += [(path, value, f"the flag for {path}") for path, value in (flags or {}).items() if value is not None]
    whole, origins = _merged(raw if isinstance(raw, Mapping) else {}, given)
    try:
        spec = read(DTESNBatcherSpec, whole, "spec")
    except SpecInvalid as error:
        found += [_with_origin(problem, origins) for problem in error.problems]
    if found:
        raise SpecInvalid(_once(found))
    return Configuration(spec=spec, source=file, config_hash=digest)


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        expected = "a file that can be read"
        message = f"{file} cannot be read: {error.strerror or error}"
        raise SpecInvalid([Problem(field=str(file), value=None, expected=expected, message=message)]) from error


def _from_environment(environ: Mapping[str, str]) -> tuple[list[tuple[str, object, str]], list[Problem]]:
    """(path, value, variable) of every setting in the environment, and a problem for every unknown one."""
    known = environment_settings()
    given: list[tuple[str, object, str]] = []
    unknown = []
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith(ENV_PREFIX) or _is_service_link(name, text):
            continue
        if name in known:
            path, field = known[name]
            given.append((path, _typed(field, text), name))
        else:
            unknown.append(_unknown_variable(name, known))
    return given, unknown


def _is_service_link(name: str, text: str) -> bool:
    if _SERVICE_LINK.match(name):
        return True
    return name.endswith("_PORT") and _SERVICE_ADDRESS.match(text) is not None


def _unknown_variable(name: str, known: Iterable[str]) -> Problem:
    hint = nearest(name, tuple(known))
    words = f"did you mean {hint}?" if hint else "docs/configuration.md lists them"
    return Problem(field=name, value=None, expected="a known setting", message=f"{name} in the environment is an unknown setting; {words}")


def _typed(field: FieldSchema, text: str) -> object:
    """The text as the field's kind of value; text that is none is left, for the reader to name."""
    if any(isinstance(option, (inspect.StrType, inspect.LiteralType)) for option in options(field.kind)):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text


def _merged(raw: Mapping[Any, Any], given: Iterable[tuple[str, object, str]]) -> tuple[dict[Any, Any], dict[str, str]]:
    """The objects of the file with what was given laid over, later over earlier, and who set which path."""
    whole = dict(raw)
    origins: dict[str, str] = {}
    for path, value, origin in given:
        *sections, leaf = path.split(".")
        inner = whole
        for name in sections:
            below = inner.get(name)
            inner[name] = dict(below) if isinstance(below, Mapping) else {}
            inner = inner[name]
        inner[leaf] = value
        origins[f"spec.{path}"] = origin
    return whole, origins


def _with_origin(problem: Problem, origins: Mapping[str, str]) -> Problem:
    origin = origins.get(problem.field.partition("[")[0])
    return msgspec.structs.replace(problem, message=f"{problem.message} (set by {origin})") if origin else problem


def _once(found: Iterable[Problem]) -> list[Problem]:
    """Without repetition: a field of the file that nothing overrides is read twice."""
    seen: dict[str, Problem] = {}
    for problem in found:
        seen.setdefault(problem.message, problem)
    return list(seen.values())
