"""The sidecar's container: one builder, for the Deployment and for injection into other pods.

It runs as it would under the `restricted` Pod Security Standard whatever the pod around it allows: no root, no
privileges, a read-only root. What it writes goes to the volumes of `volumes.py`.
"""

from __future__ import annotations

from typing import Final

from dtesn_api import names
from dtesn_api.schema import to_wire
from dtesn_api.spec import DTESNBatcherSpec, Gpu
from dtesn_operator.kinds import Manifest
from dtesn_operator.resources.freeform import copied
from dtesn_operator.resources.settings import environment
from dtesn_operator.resources.volumes import CUPY_FOLDER, mounts

GPU_RESOURCE: Final = "nvidia.com/gpu"
CLAIM: Final = "dtesn-gpu"  # name of the DRA claim within the pod
UNPRIVILEGED_USER: Final = 65_532

_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(spec: DTESNBatcherSpec, image: str, *, native: bool, hide_token: bool, root_pod: bool = False) -> Manifest:
    """The container.

    `native`: it stands among the init containers and lives as long as the application, which starts once the sidecar answers.
    It then gets SIGTERM only after the application has ended, so a preStop hook tells it that the end is near.
    `hide_token`: the pod mounts an API token, which is none of the sidecar's business. `root_pod`: the pod says that its
    containers run as root.
    """
    port = spec.sidecar.port
    found: Manifest = {
        "name": names.CONTAINER,
        "image": image,
        "command": ["dtesn-sidecar", "serve"],
        "args": ["--config", f"{names.CONFIG_FOLDER}/{names.CONFIG_FILE}", "--port", str(port)],
        "ports": [{"name": names.CONTAINER_PORT_NAME, "containerPort": port, "protocol": "TCP"}],
        "startupProbe": {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 120},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": port}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "securityContext": {**_SECURITY, **({"runAsUser": UNPRIVILEGED_USER} if root_pod else {})},
        "volumeMounts": mounts(spec, hide_token=hide_token),
    }
    if native:
        found["restartPolicy"] = "Always"
        found["lifecycle"] = {"preStop": {"exec": {"command": ["dtesn-sidecar", "drain", "--port", str(port)]}}}
    if variables := _environment(spec):
        found["env"] = variables
    if resources := _resources(spec):
        found["resources"] = resources
    if spec.image is not None and spec.image.pull_policy is not None:
        found["imagePullPolicy"] = spec.image.pull_policy
    return found


def _environment(spec: DTESNBatcherSpec) -> list[Manifest]:
    """The settings, then the user's variables, which count where both name one. The kubelet expands `$(NAME)`, so `$` is doubled."""
    ours = {name: value.replace("$", "$$") for name, value in environment(spec).items()}
    if spec.backend != "numpy":
        ours["CUPY_CACHE_DIR"] = CUPY_FOLDER
    theirs = [copied(to_wire(variable)) for variable in spec.sidecar.env]
    named = {variable["name"] for variable in theirs}
    return [{"name": name, "value": value} for name, value in ours.items() if name not in named] + theirs


def _resources(spec: DTESNBatcherSpec) -> Manifest:
    """The user's requests and limits, with the GPUs."""
    wanted: Manifest = {
        "requests": dict(spec.sidecar.resources.requests),
        "limits": dict(spec.sidecar.resources.limits),
    }
    if plugin := plugin_resource(spec.gpu):
        wanted["requests"].pop(plugin, None)  # of an extended resource, the limit is the request
        wanted["limits"][plugin] = spec.gpu.count
    found = {name: value for name, value in wanted.items() if value}
    if claimed(spec.gpu):
        found["claims"] = [{"name": CLAIM}]
    return found


def plugin_resource(gpu: Gpu) -> str | None:
    """The device plugin's resource that GPUs are asked for by, or None."""
    return None if gpu.count == 0 or gpu.device_class_name is not None else gpu.resource_name or GPU_RESOURCE


def claimed(gpu: Gpu) -> bool:
    """Whether GPUs are asked for by a DRA claim."""
    return gpu.count > 0 and gpu.device_class_name is not None
