"""One DTESNBatcher as the operator works with it: identity, validated spec, raw status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dtesn_api.reading import known_part
from dtesn_api.spec import DTESNBatcherSpec, parse_manifest


@dataclass(frozen=True, slots=True)
class Batcher:
    """A resource. `uid` is empty where it has not been applied to a cluster."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    spec: DTESNBatcherSpec = field(default_factory=DTESNBatcherSpec)
    status: Mapping[str, Any] = field(default_factory=dict)
    deleting: bool = False


def batcher_of(manifest: Mapping[str, Any]) -> Batcher:
    """The resource that a whole manifest describes; without a namespace it is in `default`.

    Raises `SpecInvalid` with every problem: old values outlive new bounds, so what is stored may not be valid.
    """
    spec = parse_manifest({"spec": None, **manifest})  # with the key, so that it is not taken for a spec alone
    metadata: Mapping[str, Any] = manifest["metadata"]
    return Batcher(
        namespace=metadata.get("namespace") or "default",
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        spec=spec,
        status=manifest.get("status") or {},
        deleting="deletionTimestamp" in metadata,
    )


def stored(manifest: Mapping[str, Any], before: Batcher | None = None) -> Batcher:
    """The resource as an API server keeps it. Raises `SpecInvalid`.

    Fields that this version does not know are passed over: a newer definition fills in their defaults, and the API server
    has refused those that nobody knows. `before`: the resource as it was read last; a spec of the same generation is not read again.
    """
    metadata = manifest["metadata"]
    if before is not None and (before.uid, before.generation) == (metadata.get("uid"), metadata.get("generation")):
        return replace(before, status=manifest.get("status") or {}, deleting="deletionTimestamp" in metadata)
    return batcher_of({**manifest, "spec": known_part(DTESNBatcherSpec, manifest.get("spec"))})


def unread(manifest: Mapping[str, Any]) -> Batcher:
    """Identity and status of a resource whose spec cannot be read; the spec is all defaults, and nobody's wish."""
    return batcher_of({**{key: manifest[key] for key in ("apiVersion", "kind", "metadata")}, "status": manifest.get("status") or {}})
