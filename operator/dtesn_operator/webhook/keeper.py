"""Keeping the webhook's certificates where both replicas and the API server find them: a Secret and the webhook's configuration.

Every replica does the same steps. Writes carry the version that was read, so of two that write at once one fails and reads again.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
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

    async def create(self, manifest: Manifest, kind: Kind) -> Manifest:
        """Create it; fails where it exists."""

    async def replace(self, manifest: Manifest, kind: Kind) -> Manifest:
        """Replace it; fails where it is no longer of the manifest's `resourceVersion`."""


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
    configuration = await objects.get(ObjectKey(CONFIGURATION, "", place.configuration))
    known = None if stored is None else from_data(stored.get("data") or {})
    published = known is not None and configuration is not None and trusting(configuration, known.bundle) is None
    wanted = advance(known, place.hosts, now, published=published)
    if wanted != known:
        await _store(objects, place, stored, wanted)
    if configuration is not None and (changed := trusting(configuration, wanted.bundle)) is not None:
        await objects.replace(changed, CONFIGURATION)
    return wanted


async def _store(objects: Objects, place: Place, stored: Mapping[str, Any] | None, wanted: Certificates) -> None:
    if stored is not None:
        await objects.replace({**stored, "data": to_data(wanted)}, SECRET)
        return
    metadata = {"name": place.secret, "namespace": place.namespace, "labels": {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": to_data(wanted)}
    await objects.create(secret, SECRET)


def trusting(configuration: Manifest, bundle: bytes) -> Manifest | None:
    """The configuration with the bundle in each of its webhooks, or None where it is there already."""
    text = b64encode(bundle).decode()
    webhooks = [{**one, "clientConfig": {**one["clientConfig"], "caBundle": text}} for one in configuration.get("webhooks") or []]
    return None if webhooks == (configuration.get("webhooks") or []) else {**configuration, "webhooks": webhooks}
