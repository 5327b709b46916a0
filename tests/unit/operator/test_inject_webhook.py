"""The webhook: reviews, its TLS server with certificates that change while it serves, and how these are kept."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from tests.unit.operator.specs import CLUSTER
from tests.unit.operator.test_inject import patched, pod, resource

from dtesn_operator.errors import ApiUnreachable
from dtesn_operator.inject import Injection
from dtesn_operator.kinds import Manifest
from dtesn_operator.webhook import server
from dtesn_operator.webhook.certificates import Pair, advance
from dtesn_operator.webhook.review import NotAReview, request_of
from dtesn_operator.webhook.running import Source, Webhook, mounted

HOSTS = ("dtesn-webhook.dtesn-system.svc", "127.0.0.1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def review(of: Manifest | None = None, **change: Any) -> bytes:
    request = {"uid": "u-1", "namespace": "shop", "object": pod() if of is None else of, **change}
    return msgspec.json.encode({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


# -- reviews -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}',
        b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}',
        review(object=None),
        review({"metadata": {}}),
        review(uid=None),
        review(namespace=None),
    ],
)
def test_what_is_no_review_of_a_pod_is_refused(body: bytes) -> None:
    with pytest.raises(NotAReview):
        request_of(body)


@pytest.mark.parametrize(("of", "wanted"), [(pod(), "demo"), (pod(initContainers=[{"name": "dtesn-sidecar"}]), None)])
def test_a_resource_is_looked_up_only_for_a_pod_that_is_without(of: Manifest, wanted: str | None) -> None:
    assert request_of(review(of)).wanted == wanted


# -- the server ----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(pair: Pair, resources: Mapping[tuple[str, str], Manifest]) -> AsyncIterator[tuple[str, ssl.SSLContext, list[str]]]:
    """A server on a free port: its URL, its TLS settings and the outcomes that it counted."""

    async def lookup(namespace: str, name: str) -> Manifest | None:
        if namespace == "broken":
            raise ConnectionError("the API server is down")
        return resources.get((namespace, name))

    outcomes: list[str] = []
    context = server.server_context(pair)
    runner = await server.listen(server.application(lookup, lambda: CLUSTER, outcomes.append), context, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/inject", context, outcomes
    finally:
        await runner.cleanup()


def trusting(bundle: bytes) -> aiohttp.TCPConnector:
    context = ssl.create_default_context(cadata=bundle.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default
    return aiohttp.TCPConnector(ssl=context, force_close=True)


async def post(url: str, bundle: bytes, body: bytes) -> tuple[int, Any]:
    async with aiohttp.ClientSession(connector=trusting(bundle)) as http, http.post(url, data=body) as answer:
        return answer.status, msgspec.json.decode(await answer.read()) if answer.content_type == "application/json" else await answer.text()


FIRST = advance(None, HOSTS, datetime.now(UTC), published=False)


async def test_a_pod_that_asks_is_answered_with_a_patch() -> None:
    async with serving(FIRST.serving, {("shop", "demo"): resource()}) as (url, _, outcomes):
        status, body = await post(url, FIRST.bundle, review())
    response = body["response"]
    assert (status, body["apiVersion"], body["kind"]) == (200, "admission.k8s.io/v1", "AdmissionReview")
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")
    after = patched(pod(), Injection(tuple(msgspec.json.decode(b64decode(response["patch"])))))
    assert after["spec"]["initContainers"][0]["name"] == "dtesn-sidecar"
    assert outcomes == ["injected"]


async def test_an_absent_resource_and_one_of_another_namespace_are_a_warning() -> None:
    async with serving(FIRST.serving, {("elsewhere", "demo"): resource()}) as (url, _, outcomes):
        _, body = await post(url, FIRST.bundle, review())
    assert body["response"]["allowed"] is True
    assert "patch" not in body["response"]
    assert "no such DTESNBatcher" in body["response"]["warnings"][0]
    assert outcomes == ["refused"]


async def test_a_failure_is_an_error_status_for_the_failure_policy_to_judge() -> None:
    async with serving(FIRST.serving, {}) as (url, _, _):
        assert (await post(url, FIRST.bundle, review(namespace="broken")))[0] == 500
        assert (await post(url, FIRST.bundle, b"{}"))[0] == 400
        assert (await post(url.replace("/inject", "/"), FIRST.bundle, review()))[0] == 404


async def test_a_new_certificate_is_served_without_a_restart() -> None:
    other = advance(None, HOSTS, datetime.now(UTC), published=False)
    async with serving(FIRST.serving, {}) as (url, context, _):
        assert (await post(url, FIRST.bundle, review()))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await post(url, other.bundle, review())
        server.load(context, other.serving)
        assert (await post(url, other.bundle, review()))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await post(url, FIRST.bundle, review())


async def test_a_port_that_is_taken_is_said_at_the_start() -> None:
    async with serving(FIRST.serving, {}) as (url, context, _):
        port = int(url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(OSError, match="address already in use"):
            await server.listen(web.Application(), context, "127.0.0.1", port)


# -- as a task of a replica ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[Webhook]:
    """A webhook that looks at its certificates all the time."""

    async def lookup(namespace: str, name: str) -> None:
        return None

    found = Webhook(server.application(lookup, lambda: CLUSTER), source, "127.0.0.1", 0, interval=0.0)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def until(holds: Callable[[], bool]) -> None:
    """Let the other tasks go on until it holds."""
    while not holds():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0)


async def status_with(webhook: Webhook, bundle: bytes) -> int:
    """The status of an answer, 0 where the certificate is not trusted."""
    try:
        return (await post(f"https://127.0.0.1:{webhook.port}/inject", bundle, review()))[0]
    except aiohttp.ClientConnectorCertificateError:
        return 0


async def test_it_serves_as_soon_as_there_is_a_certificate_and_takes_up_the_next_one(tmp_path: Path) -> None:
    other = advance(None, HOSTS, datetime.now(UTC), published=False)
    write(tmp_path, FIRST.serving)
    async with running(mounted(tmp_path)) as found:
        assert found.not_ready() == "the webhook does not serve: it has no certificate yet"
        await until(lambda: found.not_ready() == "")
        assert await status_with(found, FIRST.bundle) == 200
        write(tmp_path, other.serving)
        while await status_with(found, other.bundle) != 200:  # noqa: ASYNC110 - the webhook looks at the files by itself
            await asyncio.sleep(0)


@pytest.mark.looptime
async def test_what_fails_is_tried_again_and_readiness_says_why() -> None:
    answers: list[Pair | Exception] = [ApiUnreachable("no answer"), FileNotFoundError("tls.crt"), Pair(b"spoilt", b"spoilt"), FIRST.serving]
    asked = []

    async def source() -> Pair:
        asked.append(asyncio.get_running_loop().time())
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = Webhook(web.Application(), source, "127.0.0.1", 0)
    task = asyncio.create_task(found.run())
    await asyncio.sleep(1)
    assert found.not_ready() == "the webhook does not serve: no answer"
    await asyncio.sleep(2)
    assert found.not_ready() == "the webhook does not serve: tls.crt"
    await asyncio.sleep(4)
    assert found.not_ready() == ""
    task.cancel()
    await asyncio.wait([task])
    assert asked == [0, 2, 4, 6]


@pytest.mark.looptime
async def test_a_spoilt_certificate_leaves_the_old_one_in_service() -> None:
    answers = [FIRST.serving, Pair(b"spoilt", b"spoilt"), FIRST.serving]
    asked = []

    async def source() -> Pair:
        asked.append(asyncio.get_running_loop().time())
        return answers[min(len(asked), len(answers)) - 1]

    found = Webhook(web.Application(), source, "127.0.0.1", 0)
    task = asyncio.create_task(found.run())
    await asyncio.sleep(61)
    assert found.not_ready() == ""
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])
    assert asked == [0, 60, 62]


async def test_a_key_that_is_not_the_certificates_leaves_the_old_pair_in_service() -> None:
    other = advance(None, HOSTS, datetime.now(UTC), published=False)
    answers = [Pair(other.serving.certificate, FIRST.serving.key), FIRST.serving]

    async def source() -> Pair:
        return answers.pop() if answers else FIRST.serving

    async with running(source) as found:
        await until(lambda: not answers)
        await asyncio.sleep(0)
        assert await status_with(found, FIRST.bundle) == 200


def write(folder: Path, pair: Pair) -> None:
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
