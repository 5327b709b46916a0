"""The trial of an installed system: what it makes it removes, and where it stops it says why. (With a cluster: tests/cluster.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dtesn_operator import trial as module
from dtesn_operator.client import Client
from dtesn_operator.errors import ApiFailed, ApiUnreachable
from dtesn_operator.kinds import DTESN_BATCHER, Manifest, ObjectKey
from dtesn_operator.trial import TrialFailed, trial

KEY = ObjectKey(DTESN_BATCHER, "shop", "check")
READY = {"type": "Ready", "status": "True", "reason": "Available", "message": "1 of 1"}
WAITING = {"type": "Ready", "status": "False", "reason": "PodsMissing", "message": "0 of 1 pods are available"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OneObject(Client):
    """An API server's memory of one resource, whose status is given."""

    def __init__(self, *statuses: Manifest | Exception | None) -> None:
        self.statuses = list(statuses)
        self.there = False

    async def create(self, manifest: Manifest, kind: object, *, dry_run: bool = False) -> Manifest:
        self.there = True
        return {**manifest, "metadata": {**manifest["metadata"], "uid": "1"}}

    async def get(self, key: ObjectKey) -> Manifest | None:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, Exception):
            raise status
        return None if status is None else {"status": status}

    async def delete(self, key: ObjectKey, uid: str) -> None:
        assert (key, uid) == (KEY, "1")
        if self.statuses == [None]:
            raise ApiFailed("not found", status=404)
        self.there = False


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PERIOD", 0.001)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


@pytest.fixture
async def served() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Serves a handler for every path; the URL."""
    servers: list[TestServer] = []

    async def serve(handler: Handler) -> str:
        application = web.Application()
        application.router.add_post("/{path:.*}", handler)
        servers.append(TestServer(application))
        await servers[-1].start_server()
        return str(servers[-1].make_url("")).rstrip("/")

    yield serve
    for server in servers:
        await server.close()


def answer(*numbers: float) -> web.Response:
    return web.json_response({"result": {"processed_output": {"features": [{"root": list(numbers)}]}}})


def ready(url: str) -> dict[str, Any]:
    return {"conditions": [READY], "url": url}


async def test_what_a_new_service_and_a_busy_api_server_say_at_first_is_tried_again(session: aiohttp.ClientSession, served: Any) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return answer(0.25, -1.5) if len(asked) > 3 else web.Response(status=503)

    client = OneObject(ApiUnreachable("away"), {}, {"conditions": [WAITING]}, ready(await served(handler)))
    await trial(client, session, KEY, 30)
    assert asked == ["/dtesn/process"] * 4 + ["/dtesn/process_with_batching"] * module.AT_ONCE
    assert not client.there


async def test_an_answer_from_a_batch_that_is_not_the_one_computed_alone_fails_it(session: aiohttp.ClientSession, served: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer(0.25, -1.5 + (1e-4 if "batching" in request.path else 0))

    client = OneObject(ready(await served(handler)))
    with pytest.raises(TrialFailed, match="an answer from a batch is not the one computed alone"):
        await trial(client, session, KEY, 30)
    assert not client.there


async def test_a_service_of_somebody_else_fails_it(session: aiohttp.ClientSession, served: Any) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    client = OneObject(ready(await served(handler)))
    with pytest.raises(TrialFailed, match="the answer is not a sidecar's"):
        await trial(client, session, KEY, 30)
    assert not client.there


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({}, "no operator has seen it"),
        ({"conditions": [WAITING]}, r"Ready is False \(PodsMissing\): 0 of 1 pods are available"),
        (ApiUnreachable("GET /: away"), "GET /: away"),
        (ready("http://127.0.0.1:1"), "POST http://127.0.0.1:1/dtesn/process: Client"),
    ],
)
async def test_when_time_is_up_the_last_thing_seen_is_told(session: aiohttp.ClientSession, status: Any, sentence: str) -> None:
    client = OneObject(status)
    with pytest.raises(TrialFailed, match=f"not within 0.2 s: .*{sentence}"):
        await trial(client, session, KEY, 0.2)
    assert not client.there


async def test_a_resource_that_somebody_removes_fails_it(session: aiohttp.ClientSession) -> None:
    with pytest.raises(TrialFailed, match="somebody removed the resource"):
        await trial(OneObject(None), session, KEY, 30)
