"""The pod template: the sidecar's container and volumes in the user's `template`.

What the user says stands, except where the sidecar could not work with it: then our labels win, and a clash of names or
ports is an error that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dtesn_api import names
from dtesn_api.problems import Problem, SpecInvalid, problem
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator.batcher import Batcher
from dtesn_operator.kinds import Manifest
from dtesn_operator.resources.claim_template import claim_template_name
from dtesn_operator.resources.container import CLAIM, claimed, container
from dtesn_operator.resources.freeform import copied, without_empty_lists
from dtesn_operator.resources.metadata import labels
from dtesn_operator.resources.settings import default_grace, least_grace
from dtesn_operator.resources.volumes import volumes

_PATH: Final = "spec.template"
_MOST_GRACE: Final = 2**31  # of Kubernetes's own range, enough to be an integer for both


def pod_template(batcher: Batcher, image: str) -> Manifest:
    """The Deployment's pod template. Raises `SpecInvalid` with everything in `template` that does not go with the sidecar."""
    spec = batcher.spec
    check_template(spec)
    template = _user_template(spec)
    metadata: Manifest = template.setdefault("metadata", {})
    pod: Manifest = template.setdefault("spec", {})
    metadata["labels"] = {**metadata.get("labels", {}), **labels(batcher)}
    annotations = {**metadata.pop("annotations", {}), **scraping(spec)}
    if annotations:
        metadata["annotations"] = annotations
    native = bool(pod.get("containers"))
    pod.setdefault("serviceAccountName", batcher.name)
    if pod["serviceAccountName"] == batcher.name:
        pod.setdefault("automountServiceAccountToken", False)
    hide_token = pod.get("automountServiceAccountToken") is not False
    security = pod.get("securityContext", {})
    ours = container(spec, image, native=native, hide_token=hide_token, root_pod=security.get("runAsUser") == 0)
    if native:
        pod["initContainers"] = [*pod.get("initContainers", []), ours]  # last: it may read what the others prepare
    else:
        pod["containers"] = [ours]
        pod.setdefault("enableServiceLinks", False)
    pod["volumes"] = [*pod.get("volumes", []), *volumes(spec, batcher.name, hide_token=hide_token)]
    if claimed(spec.gpu):
        claim = {"name": CLAIM, "resourceClaimTemplateName": claim_template_name(batcher.name, spec.gpu)}
        pod["resourceClaims"] = [*pod.get("resourceClaims", []), claim]
    if spec.gpu.runtime_class_name is not None:
        pod["runtimeClassName"] = spec.gpu.runtime_class_name
    if secrets := _pull_secrets(spec, pod):
        pod["imagePullSecrets"] = secrets
    pod["terminationGracePeriodSeconds"] = grace(spec)
    return template


def check_template(spec: DTESNBatcherSpec) -> None:
    """Raises `SpecInvalid` with everything in `template` that does not go with the sidecar."""
    found = _problems(_user_template(spec), spec)
    if found:
        raise SpecInvalid(found)


def _user_template(spec: DTESNBatcherSpec) -> Manifest:
    template: Manifest = without_empty_lists(copied(spec.template or {}))
    return template


def grace(spec: DTESNBatcherSpec) -> int:
    """Seconds that a pod may take to end: the user's, which must have been checked, else long enough for the longest request."""
    given = ((spec.template or {}).get("spec") or {}).get("terminationGracePeriodSeconds")
    return default_grace(spec) if given is None else int(given)


def _pull_secrets(spec: DTESNBatcherSpec, pod: Manifest) -> list[Manifest]:
    theirs = pod.get("imagePullSecrets", [])
    known = [secret.get("name") for secret in theirs]
    ours = spec.image.pull_secrets if spec.image is not None else ()
    return [*theirs, *({"name": secret.name} for secret in ours if secret.name not in known)]


def scraping(spec: DTESNBatcherSpec) -> dict[str, str]:
    """The annotations by which Prometheus finds the port, where they are asked for."""
    if not spec.monitoring.scrape_annotations:
        return {}
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(spec.sidecar.port), "prometheus.io/path": "/metrics"}


# -- what does not go with the sidecar; all else the API server checks ---------------------------------------------------------


def _problems(template: Manifest, spec: DTESNBatcherSpec) -> list[Problem]:
    found: list[Problem] = []
    metadata = _object(template, "metadata", _PATH, found)
    pod = _object(template, "spec", _PATH, found)
    for part in ("labels", "annotations"):
        _object(metadata, part, f"{_PATH}.metadata", found)
    _object(pod, "securityContext", f"{_PATH}.spec", found)
    listed = {
        part: _objects(pod, part, found) for part in ("containers", "initContainers", "volumes", "resourceClaims", "imagePullSecrets")
    }
    if found:
        return found
    if names.LABEL_INJECT in metadata.get("labels", {}):
        where = f"{_PATH}.metadata.labels[{names.LABEL_INJECT}]"
        found.append(problem(where, metadata["labels"][names.LABEL_INJECT], "absent: these pods have the sidecar already"))
    taken = [volume["name"] for volume in volumes(spec, "", hide_token=True)]
    found += _clashes(listed["volumes"], f"{_PATH}.spec.volumes", taken)
    if claimed(spec.gpu):
        found += _clashes(listed["resourceClaims"], f"{_PATH}.spec.resourceClaims", [CLAIM])
    for part in ("containers", "initContainers"):
        for i, one in enumerate(listed[part]):
            found += _port_clashes(one, f"{_PATH}.spec.{part}[{i}].ports", spec.sidecar.port)
    found += _grace_problems(pod.get("terminationGracePeriodSeconds"), spec)
    return found


def _object(whole: Mapping[str, Any], key: str, path: str, found: list[Problem]) -> Mapping[str, Any]:
    value = whole.get(key, {})
    if isinstance(value, Mapping):
        return value
    found.append(problem(f"{path}.{key}", value, "an object"))
    return {}


def _objects(pod: Mapping[str, Any], key: str, found: list[Problem]) -> Sequence[Mapping[str, Any]]:
    value = pod.get(key, [])
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return value
    found.append(problem(f"{_PATH}.spec.{key}", value, "a list of objects"))
    return []


def _clashes(items: Sequence[Mapping[str, Any]], path: str, taken: Sequence[str]) -> list[Problem]:
    return [
        problem(f"{path}[{i}].name", item["name"], "another name: this one is the sidecar's own")
        for i, item in enumerate(items)
        if item.get("name") in taken
    ]


def _port_clashes(one: Mapping[str, Any], path: str, port: int) -> list[Problem]:
    ports = one.get("ports", [])
    if not isinstance(ports, list) or not all(isinstance(item, Mapping) for item in ports):
        return [problem(path, ports, "a list of objects")]
    return [
        problem(f"{path}[{i}].containerPort", port, "another port, or spec.sidecar.port another one: the containers of a pod share them")
        for i, item in enumerate(ports)
        if item.get("containerPort") == port and item.get("protocol", "TCP") == "TCP"
    ]


def _grace_problems(given: object, spec: DTESNBatcherSpec) -> list[Problem]:
    if given is None:
        return []
    least = least_grace(spec)
    if isinstance(given, (int, float)) and not isinstance(given, bool) and least <= given < _MOST_GRACE and given == int(given):
        return []
    words = f"an integer of at least {least}: spec.sidecar.drainDelaySeconds, a second for requests and a margin of 10"
    return [problem(f"{_PATH}.spec.terminationGracePeriodSeconds", given, words)]
