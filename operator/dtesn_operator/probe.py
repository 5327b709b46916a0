"""GET of the sidecars' own HTTP by the pods' addresses, at a bounded rate. A pod that does not answer is silent, and no more is assumed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp
import msgspec

from dtesn_operator.pods import Pod

TIMEOUT: Final = 2.0
PER_SECOND: Final = 20.0  # pods, in all
_MOST_BYTES: Final = 1_048_576

UrlOf = Callable[[Pod, int], str]


def pod_url(pod: Pod, port: int) -> str:
    """The sidecar's base URL within the cluster."""
    return f"http://[{pod.ip}]:{port}" if ":" in pod.ip else f"http://{pod.ip}:{port}"


class Probe:
    """Asks pods. `url_of` is the way from a pod and a port to a URL."""

    def __init__(self, session: aiohttp.ClientSession, url_of: UrlOf = pod_url) -> None:
        self._session = session
        self._url_of = url_of
        self._next = 0.0

    async def ask(self, pods: Sequence[Pod], port: int, path: str) -> dict[Pod, dict[str, Any] | None]:
        """The JSON object that each pod answers with; None for the silent ones."""
        answers = await asyncio.gather(*(self._one(pod, port, path) for pod in pods))
        return dict(zip(pods, answers, strict=True))

    async def _one(self, pod: Pod, port: int, path: str) -> dict[str, Any] | None:
        now = asyncio.get_running_loop().time()
        turn = max(self._next, now)
        self._next = turn + 1.0 / PER_SECOND
        await asyncio.sleep(turn - now)
        try:
            async with asyncio.timeout(TIMEOUT), self._session.get(self._url_of(pod, port) + path) as answer:
                if answer.status != 200:
                    return None
                data = await answer.content.read(_MOST_BYTES)
                while not answer.content.at_eof() and len(data) < _MOST_BYTES:
                    data += await answer.content.read(_MOST_BYTES)
                body = msgspec.json.decode(data)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):  # ValueError: no JSON, or an address that makes no URL
            return None
        return body if isinstance(body, dict) else None
