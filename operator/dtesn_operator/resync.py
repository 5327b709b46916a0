"""Every few minutes everything is listed, metadata only: what a watch missed is looked at again, and ghosts are forgotten.

An object that was deleted while a watch was away raises no event; a listing in which its UID is missing tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dtesn_api import names
from dtesn_operator.client import Client
from dtesn_operator.kinds import DTESN_BATCHER, OWNED, Kind, ObjectKey, key_of
from dtesn_operator.store import Key, Store, owner_of

INTERVAL: Final = 300.0
_LABELS: Final = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The UIDs of everything of some kinds. `known` and `newest` are the store's keys and latest versions before it began."""

    kinds: tuple[Kind, ...]
    uids: dict[ObjectKey, str]
    known: dict[Kind, list[ObjectKey]]
    newest: dict[Kind, int]


async def available(client: Client) -> frozenset[Kind]:
    """The optional kinds that the API server has."""
    return frozenset([kind for kind in OWNED if kind.optional and await client.serves(kind)])


async def listed(client: Client, store: Store, optional: Iterable[Kind], namespaces: Sequence[str]) -> Listing:
    """List the resources and what they own, of the kinds that are always there and of these optional ones."""
    kinds = (DTESN_BATCHER, *(kind for kind in OWNED if not kind.optional), *optional)
    listing = Listing(kinds, {}, {}, {})
    everywhere: list[str | None] = [*namespaces] or [None]
    for kind in kinds:
        listing.known[kind] = known = store.of_kind(kind)
        listing.newest[kind] = max((store.version(key) for key in known), default=0)
        labels = "" if kind == DTESN_BATCHER else _LABELS
        for namespace in everywhere:
            async for found in client.list(kind, namespace, labels=labels, metadata_only=True):
                listing.uids[key_of(found)] = found["metadata"]["uid"]
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
