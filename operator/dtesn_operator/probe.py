"""What the sidecars say of themselves: `/config` and `/dtesn/batch_metrics` of ready pods, by their address, at a bounded rate.

A pod that does not answer is silent: nothing is assumed of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from dtesn_operator.pods import Pod

TIMEOUT: Final = 2.0
PER_SECOND: Final = 20.0
_MOST_BYTES: Final = 1_048_576

UrlOf = Callable[[Pod, int], str]


def pod_url(pod: Pod, port: int) -> str:
    """The sidecar's base URL within the cluster."""
    return f"http://[{pod.ip}]:{port}" if ":" in pod.ip else f"http://{pod.ip}:{port}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a pod said: the hash of the settings in force, the body of batch_metrics; None where it was silent."""

    config_hash: str | None
    metrics: dict[str, Any] | None


class Probe:
    """Asks pods. `url_of` is the way from a pod and a port to a URL."""

    def __init__(self, session: aiohttp.ClientSession, url_of: UrlOf = pod_url) -> None:
        self._session = session
        self._url_of = url_of
        self._next = 0.0

    async def ask(self, pods: Sequence[Pod], port: int) -> dict[str, Spoken]:
        """What each pod says, by its name."""
        answers = await asyncio.gather(*(self._one(pod, port) for pod in pods))
        return {pod.name: answer for pod, answer in zip(pods, answers, strict=True)}

    async def _one(self, pod: Pod, port: int) -> Spoken:
        loop = asyncio.get_running_loop()
        turn = self._next = max(self._next + 1.0 / PER_SECOND, loop.time())
        await asyncio.sleep(turn - loop.time())
        base = self._url_of(pod, port)
        config = await self._get(f"{base}/config")
        metrics = await self._get(f"{base}/dtesn/batch_metrics") if config is not None else None
        found = None if config is None else config.get("config_hash")
        return Spoken(found if isinstance(found, str) else None, metrics)

    async def _get(self, url: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(TIMEOUT), self._session.get(url) as answer:
                if answer.status != 200:
                    return None
                body = msgspec.json.decode(await answer.content.read(_MOST_BYTES))
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
            return None
        return body if isinstance(body, dict) else None
