"""Injection of the sidecar into a pod that asks for it by label. Pure: a pod and a resource give a JSON patch.

What the workload says stands. Where the sidecar does not go with it the pod is admitted as it is, with a warning: an
application must not fail to start because of its sidecar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dtesn_api import names
from dtesn_api.problems import SpecInvalid
from dtesn_api.spec import DTESNBatcherSpec
from dtesn_operator.batcher import Batcher, stored
from dtesn_operator.desired import Cluster, current_image, live_settings
from dtesn_operator.kinds import Manifest
from dtesn_operator.resources.claim_template import claim_template_name
from dtesn_operator.resources.container import CLAIM, claimed, container
from dtesn_operator.resources.template import check_template, scraping
from dtesn_operator.resources.volumes import volumes

_SHOWN: Final = 160  # characters of a reason; kubectl cuts long warnings off


@dataclass(frozen=True, slots=True)
class Injection:
    """Operations of a JSON patch, in order, and warnings for whoever creates the pod. Without operations the pod stays as it is."""

    patch: tuple[Manifest, ...] = ()
    warnings: tuple[str, ...] = ()


def asked(pod: Mapping[str, Any]) -> str | None:
    """The name of the resource whose sidecar the pod asks for, or None."""
    found: str | None = (pod.get("metadata", {}).get("labels") or {}).get(names.LABEL_INJECT)
    return found or None


def present(pod: Mapping[str, Any]) -> bool:
    """Whether the pod has the sidecar, whoever put it there."""
    return any(one.get("name") == names.CONTAINER for one in _containers(pod))


def missed(pod: Mapping[str, Any]) -> bool:
    """Whether the pod asked for a sidecar and is without: the webhook was not there when it was created."""
    return asked(pod) is not None and not present(pod)


def inject(pod: Mapping[str, Any], resource: Mapping[str, Any] | None, cluster: Cluster) -> Injection:
    """What to do with a pod that is being created. `resource`: the DTESNBatcher of that name in the pod's namespace, if there is one.

    A pod that has the sidecar is left alone, so that asking again changes nothing.
    """
    name = asked(pod)
    if name is None or present(pod):
        return Injection()
    if resource is None:
        return _refused(name, "there is no such DTESNBatcher in this namespace")
    try:
        batcher = stored(resource)
        check_template(batcher.spec)
    except SpecInvalid as error:
        return _refused(name, error.problems[0].message)
    if not batcher.spec.injection.enabled:
        return _refused(name, "its spec.injection.enabled is false")
    clash = _clash(pod, batcher.spec)
    if clash is not None:
        return _refused(name, clash)
    return Injection(tuple(_operations(pod, batcher, current_image(batcher, cluster))))


def _refused(name: str, why: str) -> Injection:
    why = why if len(why) <= _SHOWN else f"{why[: _SHOWN - 3]}..."
    return Injection(warnings=(f"{names.LABEL_INJECT}={name}: the pod starts without the sidecar: {why}",))


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    spec = pod.get("spec", {})
    return [one for group in ("containers", "initContainers") for one in spec.get(group) or []]


def _clash(pod: Mapping[str, Any], spec: DTESNBatcherSpec) -> str | None:
    """What of the pod is in the sidecar's way, in words."""
    port = spec.sidecar.port
    for one in _containers(pod):
        if any(item.get("containerPort") == port and item.get("protocol", "TCP") == "TCP" for item in one.get("ports") or []):
            return f"its container {one.get('name')} has port {port}, which is the sidecar's too (spec.sidecar.port)"
    ours = [volume["name"] for volume in volumes(spec, "", hide_token=True)]
    for volume in pod["spec"].get("volumes") or []:
        if volume.get("name") in ours:
            return f"its volume {volume['name']} has a name that is the sidecar's own"
    return None


def _operations(pod: Mapping[str, Any], batcher: Batcher, image: str) -> Iterator[Manifest]:
    spec, its = batcher.spec, pod["spec"]
    hide_token = its.get("automountServiceAccountToken") is not False
    root_pod = (its.get("securityContext") or {}).get("runAsUser") == 0
    annotations = {names.ANNOTATION_SETTINGS: live_settings(spec).decode(), **_scraping(pod, spec)}
    yield from _entries("/metadata/annotations", pod["metadata"].get("annotations"), annotations)
    ours = container(spec, image, native=True, hide_token=hide_token, root_pod=root_pod)
    yield from _items("/spec/initContainers", its.get("initContainers"), [ours])
    yield from _items("/spec/volumes", its.get("volumes"), volumes(spec, batcher.name, hide_token=hide_token, fallback=True))
    if claimed(spec.gpu):
        claim = {"name": CLAIM, "resourceClaimTemplateName": claim_template_name(batcher.name, spec.gpu)}
        yield from _items("/spec/resourceClaims", its.get("resourceClaims"), [claim])
    if spec.gpu.runtime_class_name is not None and not its.get("runtimeClassName"):
        yield {"op": "add", "path": "/spec/runtimeClassName", "value": spec.gpu.runtime_class_name}
    known = [secret.get("name") for secret in its.get("imagePullSecrets") or []]
    wanted = [{"name": secret.name} for secret in (spec.image.pull_secrets if spec.image else ()) if secret.name not in known]
    yield from _items("/spec/imagePullSecrets", its.get("imagePullSecrets"), wanted)


def _scraping(pod: Mapping[str, Any], spec: DTESNBatcherSpec) -> dict[str, str]:
    """Unless the workload says itself what is scraped of it."""
    theirs = pod["metadata"].get("annotations") or {}
    return {} if any(key.startswith("prometheus.io/") for key in theirs) else scraping(spec)


def _entries(path: str, there: Mapping[str, Any] | None, new: Mapping[str, str]) -> Iterator[Manifest]:
    """Operations that set entries of an object that may be absent."""
    if not there:
        yield {"op": "add", "path": path, "value": dict(new)}
        return
    for key, value in new.items():
        yield {"op": "add", "path": f"{path}/{key.replace('~', '~0').replace('/', '~1')}", "value": value}


def _items(path: str, there: Sequence[Any] | None, new: Sequence[Manifest]) -> Iterator[Manifest]:
    """Operations that append to a list that may be absent."""
    if not there:
        if new:
            yield {"op": "add", "path": path, "value": list(new)}
        return
    for item in new:
        yield {"op": "add", "path": f"{path}/-", "value": item}
