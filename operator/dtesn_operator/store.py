"""What was last seen of the cluster: the resources and what they own, fed by watch events and by our own writes. No I/O here."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dtesn_api import names
from dtesn_operator.kinds import DTESN_BATCHER, POD, Manifest, ObjectKey, key_of

_MOST_ENDED = 10_000
_OF_PODS = ("phase", "podIP", "conditions", "initContainerStatuses", "containerStatuses")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A DTESNBatcher by name."""

    namespace: str
    name: str


class Store:
    """The last seen state of each object. An older version never replaces a newer one of the same object."""

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, Manifest] = {}
        self._owned: defaultdict[Key, set[ObjectKey]] = defaultdict(set)
        self._ended: OrderedDict[str, int] = OrderedDict()  # the version at which a UID was last known to be gone

    def seen(self, manifest: Mapping[str, Any]) -> bool:
        """Take in an object; whether something other than its status is new."""
        key = key_of(manifest)
        known = self._objects.get(key)
        if known is not None and _uid(known) == _uid(manifest) and _version(known) > _version(manifest):
            return False
        if self._ended.get(_uid(manifest), -1) >= _version(manifest):
            return False  # the late answer to a write of our own
        kept = _kept(manifest)
        if known is not None:
            self._disowned(key, known)
        self._objects[key] = kept
        if key.kind != DTESN_BATCHER:
            self._owned[_instance(manifest)].add(key)
        return known is None or _essence(known) != _essence(kept)

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
        if known is None or _uid(known) != _uid(manifest):
            return False
        del self._objects[key]
        self._disowned(key, known)
        return True

    def _disowned(self, key: ObjectKey, known: Manifest) -> None:
        if key.kind == DTESN_BATCHER:
            return
        owner = _instance(known)
        self._owned[owner].discard(key)
        if not self._owned[owner]:
            del self._owned[owner]

    def get(self, key: ObjectKey) -> Manifest | None:
        """The object, if known."""
        return self._objects.get(key)

    def resource(self, key: Key) -> Manifest | None:
        """The DTESNBatcher, if known."""
        return self._objects.get(ObjectKey(DTESN_BATCHER, key.namespace, key.name))

    def owned(self, key: Key) -> dict[ObjectKey, Manifest]:
        """What the resource controls, and what bears its label, but for pods."""
        return {one: self._objects[one] for one in self._owned.get(key, ()) if one.kind != POD}

    def pods(self, key: Key) -> list[Manifest]:
        """The resource's pods, each without its spec."""
        return [self._objects[one] for one in self._owned.get(key, ()) if one.kind == POD]

    def resources(self) -> list[Key]:
        """Every known DTESNBatcher."""
        return [Key(key.namespace, key.name) for key in self._objects if key.kind == DTESN_BATCHER]

    def ghosts(self, keys: Iterable[ObjectKey], alive: Mapping[ObjectKey, str], before: int) -> Iterator[Manifest]:
        """Of these keys the objects that a listing did not find, by UID, and that are not newer than the listing."""
        for key in keys:
            known = self._objects.get(key)
            if known is not None and alive.get(key) != _uid(known) and _version(known) <= before:
                yield known

    def uid(self, key: ObjectKey) -> str:
        """The UID of a known object, nothing otherwise."""
        known = self._objects.get(key)
        return "" if known is None else _uid(known)

    def version(self, key: ObjectKey) -> int:
        """The version of a known object, 0 otherwise."""
        known = self._objects.get(key)
        return 0 if known is None else _version(known)

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


def _kept(manifest: Mapping[str, Any]) -> Manifest:
    """What is worth its memory: of the record of who set which field only that and when we did; of pods how they are."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
    ours = [entry for entry in manifest["metadata"].get("managedFields") or () if entry.get("manager") == names.FIELD_MANAGER]
    metadata["managedFields"] = [{key: value for key, value in entry.items() if key != "fieldsV1"} for entry in ours]
    if manifest["kind"] == POD.kind:
        status = manifest.get("status") or {}
        return {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": metadata,
            "status": {part: status[part] for part in _OF_PODS if part in status},
        }
    return {**manifest, "metadata": metadata}


def _essence(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a reconcile depends on: all but the versions, and the status of DTESNBatchers too, which somebody else may have changed."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in ("resourceVersion", "managedFields")}
    return metadata, {key: value for key, value in manifest.items() if key != "metadata"}
