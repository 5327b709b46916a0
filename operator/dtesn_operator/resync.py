"""Every few minutes everything is listed, metadata only: what is not known to be in order is looked at again, and ghosts are forgotten.

An object that was deleted while a watch was away raises no event; a listing in which its UID is missing tells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dtesn_api import names
from dtesn_operator.client import Client
from dtesn_operator.inject import asked, missed
from dtesn_operator.kinds import DTESN_BATCHER, OWNED, POD, Kind, ObjectKey
from dtesn_operator.store import Key, Store, owner_of

_LABELS: Final = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The UIDs of everything of some kinds. `known` and `newest` are the store's keys and latest versions before it began."""

    kinds: tuple[Kind, ...]
    uids: dict[ObjectKey, str]
    known: dict[Kind, list[ObjectKey]]
    newest: dict[Kind, int]


async def listed(client: Client, store: Store, optional: Iterable[Kind], namespaces: Sequence[str]) -> Listing:
    """List the resources, what they own and their pods: of the kinds that are always there and of these optional ones."""
    kinds = (DTESN_BATCHER, *(kind for kind in OWNED if not kind.optional), *optional, POD)
    listing = Listing(kinds, {}, {}, {})
    for kind in kinds:
        listing.known[kind] = known = store.of_kind(kind)
        listing.newest[kind] = max((store.version(key) for key in known), default=0)  # what comes later than this is no ghost
        labels = "" if kind == DTESN_BATCHER else _LABELS
        for namespace in _everywhere(namespaces):
            async for key, uid in client.uids(kind, namespace, labels=labels):
                listing.uids[key] = uid
    return listing


def unseen(store: Store, listing: Listing) -> int:
    """How many listed objects no watch has brought yet: while there are any, a reconcile would make what exists."""
    return sum(1 for key, uid in listing.uids.items() if store.uid(key) != uid)


def forget_ghosts(store: Store, listing: Listing) -> list[Key]:
    """Forget what the listing did not find; the resources that this is about."""
    found = []
    for kind in listing.kinds:
        for ghost in list(store.ghosts(listing.known[kind], listing.uids, listing.newest[kind])):
            store.gone(ghost)
            found.append(owner_of(ghost))
    return found


async def sidecarless(client: Client, namespaces: Sequence[str]) -> dict[Key, tuple[str, ...]]:
    """The pods that asked for a resource's sidecar and run without, by resource."""
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for namespace in _everywhere(namespaces):
        async for pod in client.list(POD, namespace, labels=names.LABEL_INJECT):
            over = "deletionTimestamp" in pod["metadata"] or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            if missed(pod) and not over:
                found[Key(pod["metadata"]["namespace"], asked(pod) or "")].append(pod["metadata"]["name"])
    return {key: tuple(sorted(pods)) for key, pods in found.items()}


def _everywhere(namespaces: Sequence[str]) -> Iterable[str | None]:
    return namespaces or (None,)
