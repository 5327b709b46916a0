"""The volumes of the sidecar's container and where it mounts them. Their names begin with `dtesn-`."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from dtesn_api import names
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator.kinds import Manifest

CUPY_FOLDER: Final = "/var/cache/cupy"
TOKEN_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a folder

_CONFIG, _TMP, _CUPY, _READOUT, _NO_TOKEN = "dtesn-config", "dtesn-tmp", "dtesn-cupy", "dtesn-readout", "dtesn-no-token"


def volumes(spec: DTESNBatcherSpec, config_map: str, *, hide_token: bool, fallback: bool = False) -> list[Manifest]:
    """The volumes. `fallback`: where the ConfigMap of the live settings is absent, the pod's own annotation stands in.

    Secrets are always optional: the source that wants one says that it is missing. The configuration is mounted as a folder,
    since a mounted single file never changes.
    """
    found: list[Manifest] = [_with_fallback(config_map) if fallback else {"name": _CONFIG, "configMap": {"name": config_map}}]
    found.append({"name": _TMP, "emptyDir": {}})
    if spec.backend != "numpy":
        found.append({"name": _CUPY, "emptyDir": {}})
    if hide_token:
        found.append({"name": _NO_TOKEN, "emptyDir": {}})
    readout = spec.model.readout
    if readout is not None and readout.config_map is not None:
        key = readout.config_map.key
        found.append({"name": _READOUT, "configMap": {"name": readout.config_map.name, "items": [{"key": key, "path": key}]}})
    if readout is not None and readout.persistent_volume_claim is not None:
        claim = {"claimName": readout.persistent_volume_claim.claim_name, "readOnly": True}
        found.append({"name": _READOUT, "persistentVolumeClaim": claim})
    return found + [{"name": _secret_volume(secret), "secret": {"secretName": secret, "optional": True}} for secret in _secrets(spec)]


def _with_fallback(config_map: str) -> Manifest:
    """Of the files of one name, the last source's is taken."""
    annotation = {"path": names.CONFIG_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_SETTINGS}']"}}
    sources = [{"downwardAPI": {"items": [annotation]}}, {"configMap": {"name": config_map, "optional": True}}]
    return {"name": _CONFIG, "projected": {"sources": sources}}


def mounts(spec: DTESNBatcherSpec, *, hide_token: bool) -> list[Manifest]:
    """The mounts of the same.

    An empty folder in the place of the API token keeps it out: the API server mounts the token where nothing is mounted.
    """
    found: list[Manifest] = [
        {"name": _CONFIG, "mountPath": names.CONFIG_FOLDER, "readOnly": True},
        {"name": _TMP, "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod's own
    ]
    if spec.backend != "numpy":
        found.append({"name": _CUPY, "mountPath": CUPY_FOLDER})
    if hide_token:
        found.append({"name": _NO_TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": True})
    if spec.model.readout is not None and spec.model.readout.path is None:
        found.append({"name": _READOUT, "mountPath": names.READOUT_FOLDER, "readOnly": True})
    folders = [(_secret_volume(secret), f"{names.SECRETS_FOLDER}/{secret}") for secret in _secrets(spec)]
    return found + [{"name": name, "mountPath": folder, "readOnly": True} for name, folder in folders]


def _secrets(spec: DTESNBatcherSpec) -> list[str]:
    """The Secrets of the load sources, each once."""
    return sorted({source.secret_ref.name for source in spec.load.prometheus if source.secret_ref is not None})


def _secret_volume(secret: str) -> str:
    """A volume's name is a label, shorter than a Secret's may be."""
    return f"dtesn-secret-{sha256(secret.encode()).hexdigest()[:10]}"
