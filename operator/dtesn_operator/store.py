"""What was last seen of the cluster: the resources and what they own, fed by watch events and by our own writes. No I/O here.

Objects are kept as JSON: as dictionaries they take several times the memory, and thousands of them are looked at seldom.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dtesn_api import names
from dtesn_operator.kinds import DTESN_BATCHER, POD, Manifest, ObjectKey, key_of

_MOST_ENDED = 10_000
_OF_PODS = ("phase", "podIP", "conditions", "initContainerStatuses", "containerStatuses")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A DTESNBatcher by name."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """An object: `text` is all that a reconcile depends on, `record` who set its fields; the other two change without a meaning."""

    uid: str
    version: int
    owner: Key | None
    text: bytes
    record: bytes

    def manifest(self) -> Manifest:
        """The object, anew at each call."""
        found: Manifest = msgspec.json.decode(self.text)
        found["metadata"] |= {"resourceVersion": str(self.version), "managedFields": msgspec.json.decode(self.record)}
        return found


class Store:
    """The last seen state of each object. An older version never replaces a newer one of the same name, whichever object it is of."""

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, _Kept] = {}
        self._owned: defaultdict[Key, set[ObjectKey]] = defaultdict(set)
        self._ended: OrderedDict[str, int] = OrderedDict()  # the version at which a UID was last known to be gone
        self._changed_at: dict[Key, int] = {}  # in changes of anything
        self._changes = 0

    def seen(self, manifest: Mapping[str, Any]) -> bool:
        """Take in an object; whether something of it is new, its versions and the record of who set its fields aside."""
        key, uid, version = key_of(manifest), _uid(manifest), _version(manifest)
        known = self._objects.get(key)
        if known is not None and known.version > version:
            return False  # late: of this object, or of one of its name that went before it; kopf keeps no order between the two
        if self._ended.get(uid, -1) >= version:
            return False  # the late answer to a write of our own
        kept = _kept(key, manifest)
        if known is None or known.owner != kept.owner:
            self._disowned(key, known)
            if kept.owner is not None:
                self._owned[kept.owner].add(key)
        self._objects[key] = kept
        if known is not None and known.text == kept.text:
            return False
        self._changed(key, kept)
        if known is not None and known.owner != kept.owner:
            self._changed(key, known)
        return True

    def alive(self, manifest: Mapping[str, Any]) -> bool:
        """Take in an object that was just read. A watch by label says that one is gone when it only lost its label."""
        self._ended.pop(_uid(manifest), None)
        return self.seen(manifest)

    def gone(self, manifest: Mapping[str, Any]) -> bool:
        """Forget an object; whether it was known. One of the same name with another UID stays."""
        key = key_of(manifest)
        known = self._objects.get(key)
        self._ended[_uid(manifest)] = max(_version(manifest), self._ended.pop(_uid(manifest), 0))
        if len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)
        if known is None or known.uid != _uid(manifest):
            return False
        del self._objects[key]
        self._disowned(key, known)
        self._changed(key, known)
        return True

    def changed_at(self, key: Key) -> int:
        """Another number whenever something of a resource, or of what it owns, is new or gone."""
        return self._changed_at.get(key, 0)

    def _changed(self, key: ObjectKey, kept: _Kept) -> None:
        owner = kept.owner or Key(key.namespace, key.name)
        self._changes += 1
        if owner in self._owned or ObjectKey(DTESN_BATCHER, owner.namespace, owner.name) in self._objects:
            self._changed_at[owner] = self._changes
        else:
            self._changed_at.pop(owner, None)  # nothing is left of it

    def _disowned(self, key: ObjectKey, known: _Kept | None) -> None:
        if known is None or known.owner is None:
            return
        self._owned[known.owner].discard(key)
        if not self._owned[known.owner]:
            del self._owned[known.owner]

    def get(self, key: ObjectKey) -> Manifest | None:
        """The object, if known."""
        known = self._objects.get(key)
        return None if known is None else known.manifest()

    def resource(self, key: Key) -> Manifest | None:
        """The DTESNBatcher, if known."""
        return self.get(ObjectKey(DTESN_BATCHER, key.namespace, key.name))

    def owned(self, key: Key) -> dict[ObjectKey, Manifest]:
        """What the resource controls, and what bears its label, but for pods."""
        return {one: self._objects[one].manifest() for one in self._owned.get(key, ()) if one.kind != POD}

    def pods(self, key: Key) -> list[Manifest]:
        """The resource's pods, each without its spec."""
        return [self._objects[one].manifest() for one in self._owned.get(key, ()) if one.kind == POD]

    def resources(self) -> list[Key]:
        """Every known DTESNBatcher."""
        return [Key(key.namespace, key.name) for key in self._objects if key.kind == DTESN_BATCHER]

    def ghosts(self, keys: Iterable[ObjectKey], alive: Mapping[ObjectKey, str], before: int) -> Iterator[Manifest]:
        """Of these keys the objects that a listing did not find, by UID, and that are not newer than the listing."""
        for key in keys:
            known = self._objects.get(key)
            if known is not None and alive.get(key) != known.uid and known.version <= before:
                yield known.manifest()

    def uid(self, key: ObjectKey) -> str:
        """The UID of a known object, nothing otherwise."""
        known = self._objects.get(key)
        return "" if known is None else known.uid

    def version(self, key: ObjectKey) -> int:
        """The version of a known object, 0 otherwise."""
        known = self._objects.get(key)
        return 0 if known is None else known.version

    def of_kind(self, kind: object) -> list[ObjectKey]:
        """The keys of all known objects of a kind."""
        return [key for key in self._objects if key.kind == kind]


def owner_of(manifest: Mapping[str, Any]) -> Key:
    """The DTESNBatcher that an event is about: the object itself, or its controller, or the one whose label it bears."""
    return (
        Key(manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
        if key_of(manifest).kind == DTESN_BATCHER
        else _instance(manifest)
    )


def _instance(manifest: Mapping[str, Any]) -> Key:
    metadata = manifest["metadata"]
    label = (metadata.get("labels") or {}).get(names.LABEL_INSTANCE, "")
    controllers = (one["name"] for one in metadata.get("ownerReferences") or () if one.get("controller") and one.get("kind") == names.KIND)
    return Key(metadata.get("namespace", ""), next(controllers, label))


def _uid(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Mapping[str, Any]) -> int:
    """Versions of one object compare as integers (KEP-5504)."""
    return int(manifest["metadata"].get("resourceVersion") or 0)


def _kept(key: ObjectKey, manifest: Mapping[str, Any]) -> _Kept:
    """What is worth its memory: of the record of who set which field only that and when we did; of pods how they are."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in ("resourceVersion", "managedFields")}
    ours = [entry for entry in manifest["metadata"].get("managedFields") or () if entry.get("manager") == names.FIELD_MANAGER]
    kept = {**manifest, "metadata": metadata}
    if key.kind == POD:
        status = manifest.get("status") or {}
        kept = {name: kept[name] for name in ("apiVersion", "kind", "metadata")}
        kept["status"] = {part: status[part] for part in _OF_PODS if part in status}
    return _Kept(
        uid=_uid(manifest),
        version=_version(manifest),
        owner=None if key.kind == DTESN_BATCHER else _instance(manifest),
        text=msgspec.json.encode(kept),
        record=msgspec.json.encode([{name: value for name, value in entry.items() if name != "fieldsV1"} for entry in ours]),
    )
