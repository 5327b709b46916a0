"""Calls about single pods: the annotation that makes the kubelet look, the sidecar's own HTTP, and what Events say of a pod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dtesn_api import names
from dtesn_operator.client import Client
from dtesn_operator.errors import ApiFailed
from dtesn_operator.kinds import CORE_EVENT, POD, ObjectKey
from dtesn_operator.pods import Pod
from dtesn_operator.probe import Probe

ANNOTATION_AGAIN: Final = f"{names.GROUP}/config-told"  # how often the pod was told before: any change makes the kubelet look


@dataclass(frozen=True, slots=True)
class Visits:
    """The ways to pods."""

    client: Client
    probe: Probe

    async def tell(self, namespace: str, pod: Pod, config_hash: str, times: int) -> None:
        """Annotate the pod, upon which the kubelet brings its mounted files up to date at once."""
        annotations = {names.ANNOTATION_CONFIG_HASH: config_hash, ANNOTATION_AGAIN: str(times) if times else None}
        try:
            patch = {"metadata": {"uid": pod.uid, "annotations": annotations}}
            await self.client.merge(ObjectKey(POD, namespace, pod.name), patch)
        except ApiFailed as error:
            if error.status not in (404, 409):  # it has ended meanwhile
                raise

    async def config_hashes(self, pods: Sequence[Pod], port: int) -> dict[Pod, str | None]:
        """The hash of the settings in force that each pod reports; None where it is silent."""
        found = await self.probe.ask(pods, port, "/config")
        return {pod: None if body is None else _text(body.get("config_hash")) for pod, body in found.items()}

    async def metrics(self, pods: Sequence[Pod], port: int) -> list[dict[str, Any]]:
        """The bodies of batch_metrics of those that answer."""
        found = await self.probe.ask(pods, port, "/dtesn/batch_metrics")
        return [body for body in found.values() if body is not None]

    async def warning(self, namespace: str, pod: Pod) -> str:
        """The last warning about a pod, such as a Secret that it waits for; nothing where there is none."""
        last: tuple[str, str] = ("", "")
        fields = f"involvedObject.uid={pod.uid},type=Warning"
        async for event in self.client.list(CORE_EVENT, namespace, fields=fields):
            at = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
            last = max(last, (at, f"pod {pod.name}: {event.get('reason')}: {event.get('message')}"))
        return last[1]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
