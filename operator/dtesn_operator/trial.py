"""A trial of an installed system: a small DTESNBatcher is made, its Service asked, and it is removed again, whatever came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import msgspec

from dtesn_api import names
from dtesn_api.status import Condition
from dtesn_operator.client import Client
from dtesn_operator.errors import ApiFailed, ApiUnreachable, OperatorError
from dtesn_operator.kinds import DTESN_BATCHER, Manifest, ObjectKey
from dtesn_operator.status import before_of

log = logging.getLogger(__name__)

AT_ONCE: Final = 8  # requests, so that there is something to batch
TOLERANCE: Final = 1e-5  # of a state, between an answer computed alone and one from a batch
_PERIOD: Final = 0.5
_CALL: Final = 10.0
_SPEC: Final = {
    "replicas": 1,
    "model": {"membraneDepth": 1, "esnSize": 32},
    "sidecar": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
}
_BODY: Final = {"input_data": "one small request", "output": "features"}


class TrialFailed(OperatorError):
    """The system does not do what it should; the text says where it stopped."""

    retry = False


async def trial(client: Client, session: aiohttp.ClientSession, key: ObjectKey, seconds: float) -> None:
    """Make the resource, wait until it is Ready, compare answers, remove it: all but the removal within so many seconds.

    Raises `TrialFailed`, and `ApiFailed` or `ApiUnreachable` where the resource cannot be made or removed.
    """
    metadata = {"name": key.name, "namespace": key.namespace}
    made = await client.create({"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": _SPEC}, DTESN_BATCHER)
    log.info("made %s %s in %s", names.KIND, key.name, key.namespace)
    steps = _Steps()
    try:
        async with asyncio.timeout(seconds):
            url = await _ready(client, key, steps)
            log.info("Ready; asking %s", url)
            await _answers(session, url, steps)
    except TimeoutError:
        raise TrialFailed(f"not within {seconds:g} s: {steps.last}") from None
    finally:
        await _remove(client, key, made["metadata"]["uid"])


async def _remove(client: Client, key: ObjectKey, uid: str) -> None:
    try:
        await client.delete(key, uid)
    except ApiFailed as error:
        if error.status not in (404, 409):  # somebody else did it
            raise
    log.info("removed it")


class _Steps:
    """The last thing that was seen, for those who must be told that time is up."""

    last = "nothing was seen of it"


async def _ready(client: Client, key: ObjectKey, steps: _Steps) -> str:
    """The URL of its Service, once it is Ready."""
    while True:
        try:
            found = await client.get(key)
        except (ApiFailed, ApiUnreachable) as error:
            steps.last = str(error)
        else:
            if found is None:
                raise TrialFailed("somebody removed the resource")
            status: Manifest = found.get("status") or {}
            ready = before_of(status, Condition.READY)
            if ready.get("status") == "True" and status.get("url"):
                return str(status["url"])
            steps.last = _told(status)
        await asyncio.sleep(_PERIOD)


def _told(status: Manifest) -> str:
    conditions = status.get("conditions") or ()
    if not conditions:
        return "it has no conditions: no operator has seen it"
    return "; ".join(f"{one['type']} is {one['status']} ({one.get('reason')}): {one.get('message')}" for one in conditions)


async def _answers(session: aiohttp.ClientSession, url: str, steps: _Steps) -> None:
    """Many requests at once get what one gets that is computed alone."""
    alone = _numbers(await _post(session, f"{url}/dtesn/process", steps))
    together = await asyncio.gather(*(_post(session, f"{url}/dtesn/process_with_batching", steps) for _ in range(AT_ONCE)))
    for answer in together:
        found = _numbers(answer)
        if len(found) != len(alone) or any(abs(a - b) > TOLERANCE for a, b in zip(alone, found, strict=True)):
            raise TrialFailed(f"an answer from a batch is not the one computed alone: {found[:4]}... and {alone[:4]}...")
    log.info("%d answers of %d numbers, the same as alone", AT_ONCE, len(alone))


async def _post(session: aiohttp.ClientSession, url: str, steps: _Steps) -> Any:
    """The features in the answer. What a Service does that has just come about is tried again."""
    while True:
        try:
            async with asyncio.timeout(_CALL), session.post(url, json=_BODY) as answer:
                data = await answer.read()
            if answer.status == 200:
                return msgspec.json.decode(data)["result"]["processed_output"]["features"]
            steps.last = f"POST {url}: {answer.status} {data[:300].decode(errors='replace')}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            steps.last = f"POST {url}: {type(error).__name__} {error}"
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise TrialFailed(f"POST {url}: the answer is not a sidecar's ({error!r})") from None
        await asyncio.sleep(_PERIOD)


def _numbers(features: Any) -> list[float]:
    return list(_flat(features))


def _flat(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _flat(value[name])
    elif isinstance(value, float | int):
        yield float(value)
