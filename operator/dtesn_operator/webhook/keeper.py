"""Keeping the webhook's certificates where both replicas and the API server find them: a Secret and the webhook's configuration.

Every replica does the same steps. Writes carry the version that was read, so of two that write at once one fails and reads again.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from dtesn_api import names
from dtesn_operator.kinds import Kind, Manifest, ObjectKey
from dtesn_operator.webhook.certificates import Certificates, advance, from_data, to_data

SECRET: Final = Kind("", "v1", "secrets", "Secret")
CONFIGURATION: Final = Kind(
    "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"
)  # not namespaced: the namespace of its keys is empty


class Objects(Protocol):
    """What is asked of the API server. Each raises where it fails; the next step then begins by reading again."""

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object, or None where there is none."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create it; fails where it exists."""

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace it; fails where it is no longer of the manifest's `resourceVersion`."""

    async def patch_json(self, key: ObjectKey, operations: Sequence[Manifest]) -> Manifest:
        """Apply a JSON patch."""


@dataclass(frozen=True, slots=True)
class Place:
    """The Secret of the certificates, the webhook configuration that trusts them, and the names that the server is called by."""

    namespace: str
    secret: str
    configuration: str
    hosts: tuple[str, ...]


async def keep(objects: Objects, place: Place, now: datetime) -> Certificates:
    """One step: read, renew what is due, store it, publish the bundle. Returns what is to be served.

    To be repeated every minute or so, and at once at the start. A configuration that does not exist (yet) is passed over.
    """
    stored = await objects.get(ObjectKey(SECRET, place.namespace, place.secret))
    key = ObjectKey(CONFIGURATION, "", place.configuration)
    configuration = await objects.get(key)
    known = None if stored is None else from_data(stored.get("data") or {})
    published = known is not None and configuration is not None and not unpublished(configuration, known.bundle)
    wanted = advance(known, place.hosts, now, published=published)
    if wanted != known:
        await _store(objects, place, stored, wanted)
    if configuration is not None and (operations := unpublished(configuration, wanted.bundle)):
        await objects.patch_json(key, operations)
    return wanted


async def _store(objects: Objects, place: Place, stored: Mapping[str, Any] | None, wanted: Certificates) -> None:
    if stored is not None:
        await objects.replace({**stored, "data": to_data(wanted)})
        return
    metadata = {"name": place.secret, "namespace": place.namespace, "labels": {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}}
    await objects.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": to_data(wanted)})


def unpublished(configuration: Mapping[str, Any], bundle: bytes) -> list[Manifest]:
    """The operations of a JSON patch that put the bundle into each webhook of the configuration that lacks it."""
    found: list[Manifest] = []
    for i, webhook in enumerate(configuration.get("webhooks") or []):
        if b64decode(webhook.get("clientConfig", {}).get("caBundle") or "") != bundle:
            found.append({"op": "test", "path": f"/webhooks/{i}/name", "value": webhook["name"]})
            found.append({"op": "add", "path": f"/webhooks/{i}/clientConfig/caBundle", "value": b64encode(bundle).decode()})
    return found
