"""Names, labels and owner references, the same on everything that belongs to a resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtesn_api import names
from dtesn_operator.kinds import Kind, Manifest

if TYPE_CHECKING:
    from dtesn_operator.batcher import Batcher


def selector(name: str) -> dict[str, str]:
    """The labels that pods of the resource are selected by. They never change: a Deployment's selector is immutable."""
    return {names.LABEL_NAME: names.PART_OF, names.LABEL_INSTANCE: name}


def labels(batcher: Batcher) -> dict[str, str]:
    """The labels of everything owned, pods included."""
    return {**selector(batcher.name), names.LABEL_MANAGED_BY: names.FIELD_MANAGER}


def owned(kind: Kind, batcher: Batcher, name: str | None = None) -> Manifest:
    """The head of an owned object: it bears the resource's name unless another is given.

    The owner reference does not block the owner's deletion: that would take a permission on the resource's finalizers.
    """
    metadata: Manifest = {"name": name or batcher.name, "namespace": batcher.namespace, "labels": labels(batcher)}
    if batcher.uid:
        metadata["ownerReferences"] = [
            {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": batcher.name, "uid": batcher.uid, "controller": True}
        ]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
