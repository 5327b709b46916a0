"""The webhook behind a real API server: pods that ask get the sidecar, and nothing that goes wrong keeps a pod from starting."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.cluster.control_plane import ControlPlane, until
from tests.unit.operator.specs import APPLICATION, CLUSTER

from dtesn_api import names
from dtesn_operator.client import Client, connected
from dtesn_operator.inject import missed
from dtesn_operator.kinds import DTESN_BATCHER, Manifest, ObjectKey
from dtesn_operator.webhook import server
from dtesn_operator.webhook.certificates import SETTLE, Certificates, advance
from dtesn_operator.webhook.keeper import CONFIGURATION, SECRET, Place, keep
from dtesn_operator.webhook.running import Webhook, kept

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("127.0.0.1",)
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[Client]:
    """A client of the API server, which has the CustomResourceDefinition."""
    await asyncio.to_thread(control_plane.kubectl, "apply", "--server-side", "-f", str(ROOT / "crds" / "dtesnbatchers.yaml"))
    established = ("wait", "--for=condition=Established", "crd/dtesnbatchers.dtesn.dev", "--timeout=30s")
    await asyncio.to_thread(until, lambda: control_plane.kubectl(*established), what="the kind")
    async with connected(control_plane.kubeconfig) as found:
        yield found


@dataclass
class Replica:
    """One running webhook server."""

    url: str
    outcomes: list[str]
    context: Any
    certificates: Certificates

    def take(self, certificates: Certificates) -> None:
        """Serve these from now on."""
        if certificates != self.certificates:
            server.load(self.context, certificates.serving)
            self.certificates = certificates


@asynccontextmanager
async def replica(client: Client, certificates: Certificates) -> AsyncIterator[Replica]:
    """A webhook server that looks resources up in the API server."""

    async def lookup(namespace: str, name: str) -> Manifest | None:
        return await client.get(ObjectKey(DTESN_BATCHER, namespace, name))

    outcomes: list[str] = []
    context = server.server_context(certificates.serving)
    runner = await server.listen(server.application(lookup, lambda: CLUSTER, outcomes.append), context, "127.0.0.1", 0)
    try:
        yield Replica(f"https://127.0.0.1:{runner.addresses[0][1]}{server.PATH}", outcomes, context, certificates)
    finally:
        await runner.cleanup()


def webhook(name: str, url: str, namespace: str, *, policy: str = "Ignore", reinvocation: str = "IfNeeded") -> Manifest:
    """A webhook for the pods of one namespace that bear the label, as the chart has it."""
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": policy,
        "reinvocationPolicy": reinvocation,
        "timeoutSeconds": 3,
        "clientConfig": {"url": url},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "objectSelector": {"matchExpressions": [{"key": names.LABEL_INJECT, "operator": "Exists"}]},
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": namespace},
            "matchExpressions": [{"key": "dtesn.dev/injection", "operator": "NotIn", "values": ["disabled"]}],
        },
    }


@asynccontextmanager
async def configured(plane: ControlPlane, namespace: str, *webhooks: Manifest) -> AsyncIterator[str]:
    """A configuration with these webhooks, in force; its name."""
    name = f"dtesn-{namespace}"
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": list(webhooks),
    }
    await asyncio.to_thread(plane.apply, configuration)
    try:
        yield name
    finally:
        await asyncio.to_thread(plane.kubectl, "delete", "mutatingwebhookconfiguration", name)


def place(namespace: str) -> Place:
    return Place(namespace, "dtesn-webhook", f"dtesn-{namespace}", HOSTS)


@asynccontextmanager
async def injecting(plane: ControlPlane, client: Client, namespace: str) -> AsyncIterator[Replica]:
    """A webhook that the API server trusts and asks."""
    now = datetime.now(UTC)
    async with replica(client, advance(None, HOSTS, now, published=False)) as one, AsyncExitStack() as stack:
        await stack.enter_async_context(configured(plane, namespace, webhook("inject.dtesn.dev", one.url, namespace)))
        one.take(await keep(client, place(namespace), now))
        await asked(plane, namespace, one)
        yield one


async def asked(plane: ControlPlane, namespace: str, *replicas: Replica) -> None:
    """Return once the API server asks these replicas, and trusts them: it learns of a configuration a little later than it is stored."""

    def probe() -> bool:
        before = [len(one.outcomes) for one in replicas]
        plane.kubectl(
            "create", "--dry-run=server", "-f", "-", "--namespace", namespace, data=json.dumps(pod("probe", "absent")), check=False
        )
        return all(len(one.outcomes) > count for one, count in zip(replicas, before, strict=True))

    await asyncio.to_thread(until, probe, what="a call of the webhook")
    for one in replicas:
        one.outcomes.clear()


def pod(name: str, wanted: str | None = "demo", **spec: Any) -> Manifest:
    labels = {"app": "web"} | ({names.LABEL_INJECT: wanted} if wanted else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {"containers": [APPLICATION], **spec}}


def resource(**spec: Any) -> Manifest:
    whole = {"injection": {"enabled": True}, "batching": {"targetBatchSize": 12}, **spec}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": "demo"}, "spec": whole}


async def create(plane: ControlPlane, namespace: str, manifest: Manifest) -> tuple[Manifest, str]:
    """The object as it was created, and what kubectl warned of."""

    def call() -> tuple[Manifest, str]:
        done = plane.kubectl("create", "--namespace", namespace, "-o", "json", "-f", "-", data=json.dumps(manifest))
        return json.loads(done.stdout), done.stderr

    await asyncio.to_thread(until, lambda: plane.get("serviceaccount/default", namespace=namespace), what="the namespace's account")
    return await asyncio.to_thread(call)


def sidecars(found: Manifest) -> list[Manifest]:
    return [one for one in found["spec"].get("initContainers", []) if one["name"] == names.CONTAINER]


async def test_a_pod_that_asks_gets_the_sidecar_and_one_that_does_not_is_not_even_looked_at(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    async with injecting(control_plane, client, namespace) as one:
        await create(control_plane, namespace, resource())
        found, warned = await create(control_plane, namespace, pod("web"))
        await create(control_plane, namespace, pod("other", None))
    (sidecar,) = sidecars(found)
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == CLUSTER.operator_image
    assert json.loads(found["metadata"]["annotations"]["dtesn.dev/settings"])["batching"] == {"targetBatchSize": 12}
    assert warned == ""
    assert one.outcomes == ["injected"]


async def test_the_applications_token_is_mounted_for_the_application_alone(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    async with injecting(control_plane, client, namespace):
        await create(control_plane, namespace, resource())
        found, _ = await create(control_plane, namespace, pod("web"))
    volumes = {volume["name"]: volume for volume in found["spec"]["volumes"]}
    mounted = [
        next(volumes[mount["name"]] for mount in one["volumeMounts"] if mount["mountPath"] == TOKEN_FOLDER)
        for one in (found["spec"]["containers"][0], *sidecars(found))
    ]
    assert "projected" in mounted[0], "the application has its token"
    assert "emptyDir" in mounted[1], "the sidecar has an empty folder there"


async def test_pods_of_a_deployment_get_it_and_become_ready(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels | {names.LABEL_INJECT: "demo"}}, "spec": {"containers": [APPLICATION]}}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }
    async with injecting(control_plane, client, namespace) as one:
        await create(control_plane, namespace, resource())
        await create(control_plane, namespace, workload)
        await asyncio.to_thread(
            until, lambda: control_plane.get("deployment/web", namespace=namespace)["status"].get("readyReplicas") == 2, what="ready pods"
        )
    pods = (await asyncio.to_thread(control_plane.get, "pods", "-l", "app=web", namespace=namespace))["items"]
    assert [len(sidecars(found)) for found in pods] == [1, 1]
    assert one.outcomes == ["injected"] * 2


async def test_a_restricted_namespace_admits_what_was_injected(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    await asyncio.to_thread(control_plane.kubectl, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    modest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {**APPLICATION, "securityContext": modest | {"seccompProfile": {"type": "RuntimeDefault"}}}
    async with injecting(control_plane, client, namespace):
        await create(
            control_plane,
            namespace,
            resource(load={"prometheus": [{"name": "a", "url": "http://p", "query": "up", "secretRef": {"name": "s"}}]}),
        )
        found, _ = await create(control_plane, namespace, pod("web", containers=[container]))
    assert len(sidecars(found)) == 1


@pytest.mark.parametrize("others", [None, {"injection": {"enabled": False}}])
async def test_without_a_resource_that_injects_the_pod_starts_and_its_maker_is_warned(
    control_plane: ControlPlane, client: Client, namespace: str, others: dict[str, Any] | None
) -> None:
    async with injecting(control_plane, client, namespace) as one:
        if others is not None:
            await create(control_plane, namespace, resource(**others))
        found, warned = await create(control_plane, namespace, pod("web"))
    assert sidecars(found) == []
    assert "Warning: dtesn.dev/inject=demo: the pod starts without the sidecar: " in warned
    assert one.outcomes == ["refused"]


async def test_a_resource_of_another_namespace_injects_nothing(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    async with injecting(control_plane, client, namespace):
        await asyncio.to_thread(control_plane.apply, resource(), namespace="default")
        try:
            found, warned = await create(control_plane, namespace, pod("web"))
        finally:
            await asyncio.to_thread(control_plane.kubectl, "delete", "dtesnbatcher", "demo")
    assert sidecars(found) == []
    assert "no such DTESNBatcher in this namespace" in warned


async def test_a_namespace_that_opted_out_is_left_alone(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    async with injecting(control_plane, client, namespace) as one:
        await create(control_plane, namespace, resource())
        await asyncio.to_thread(control_plane.kubectl, "label", "namespace", namespace, "dtesn.dev/injection=disabled")

        def untouched() -> bool:
            one.outcomes.clear()
            data = json.dumps(pod("web"))
            control_plane.kubectl("create", "--dry-run=server", "--namespace", namespace, "-f", "-", data=data)
            return not one.outcomes

        await asyncio.to_thread(until, untouched, what="a pod that is not looked at")
        found, _ = await create(control_plane, namespace, pod("web"))
    assert sidecars(found) == []


async def test_with_the_webhook_down_pods_start_without_and_are_known_as_missed(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    await create(control_plane, namespace, resource())
    async with configured(control_plane, namespace, webhook("inject.dtesn.dev", "https://127.0.0.1:9/inject", namespace)):
        found, _ = await create(control_plane, namespace, pod("web"))
    assert sidecars(found) == []
    assert missed(found)


async def test_where_the_policy_is_to_fail_a_broken_webhook_keeps_pods_out(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    async with configured(control_plane, namespace, webhook("inject.dtesn.dev", "https://127.0.0.1:9/inject", namespace, policy="Fail")):

        def refused() -> bool:
            done = control_plane.kubectl("create", "--namespace", namespace, "-f", "-", data=json.dumps(pod("web")), check=False)
            return "failed calling webhook" in done.stderr

        await asyncio.to_thread(until, refused, what="a refusal")


async def test_a_webhook_that_is_asked_again_does_not_inject_twice(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    async def touch(request: web.Request) -> web.Response:
        review = await request.json()
        patch = [{"op": "add", "path": "/metadata/labels/touched", "value": "yes"}]
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": b64encode(json.dumps(patch).encode()).decode(),
        }
        return web.json_response({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response})

    now = datetime.now(UTC)
    other = web.Application()
    other.router.add_post("/inject", touch)
    async with replica(client, advance(None, HOSTS, now, published=False)) as one:
        runner = await server.listen(other, one.context, "127.0.0.1", 0)
        try:
            url = f"https://127.0.0.1:{runner.addresses[0][1]}/inject"
            hooks = (webhook("inject.dtesn.dev", one.url, namespace), webhook("later.example.com", url, namespace, reinvocation="Never"))
            async with configured(control_plane, namespace, *hooks):
                one.take(await keep(client, place(namespace), now))
                await asked(control_plane, namespace, one)
                await create(control_plane, namespace, resource())
                found, _ = await create(control_plane, namespace, pod("web"))
        finally:
            await runner.cleanup()
    assert found["metadata"]["labels"]["touched"] == "yes"
    assert len(sidecars(found)) == 1
    assert one.outcomes == ["injected", "untouched"]


async def test_through_a_whole_rotation_by_two_replicas_no_pod_is_refused(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    now = datetime.now(UTC)
    where, began = place(namespace), now - timedelta(days=490)  # as old as an authority is when its successor is announced
    first = await keep(client, where, began)
    async with replica(client, first) as one, replica(client, first) as two:
        hooks = [webhook(f"{name}.dtesn.dev", found.url, namespace, policy="Fail") for name, found in (("a", one), ("b", two))]
        async with configured(control_plane, namespace, *hooks):
            await create(control_plane, namespace, resource())
            seen = []
            for stage in (0, 1, 2):
                seen.append(await both_agree(client, where, now + SETTLE * stage, one, two))
                if stage == 0:
                    await asked(control_plane, namespace, one, two)
                found, _ = await create(control_plane, namespace, pod(f"web-{stage}"))
                assert len(sidecars(found)) == 1
            stored = await client.get(ObjectKey(CONFIGURATION, "", where.configuration))
    announced, signed, done = seen
    assert (announced.authority, announced.coming is None) == (first.authority, False)
    assert (signed.authority, signed.leaving) == (announced.coming, first.authority.certificate)
    assert (done.authority, done.leaving) == (signed.authority, b"")
    assert stored is not None
    assert {b64decode(one["clientConfig"]["caBundle"]) for one in stored["webhooks"]} == {done.bundle}


async def both_agree(client: Client, where: Place, at: datetime, *replicas: Replica) -> Certificates:
    """Let the replicas keep the certificates in turn until there is nothing left to do at that time."""
    while True:
        before = [one.certificates for one in replicas]
        for one in replicas:
            one.take(await keep(client, where, at))
        if len({one.certificates for one in replicas} | set(before)) == 1:
            return before[0]


async def test_two_replicas_that_start_at_once_serve_the_same_certificate(client: Client, namespace: str) -> None:
    async def lookup(namespace: str, name: str) -> Manifest | None:
        return await client.get(ObjectKey(DTESN_BATCHER, namespace, name))

    sources = [kept(client, place(namespace)) for _ in range(2)]
    replicas = [Webhook(server.application(lookup, lambda: CLUSTER), source, "127.0.0.1", 0) for source in sources]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in replicas]
        while any(one.not_ready() for one in replicas):  # noqa: ASYNC110 - it is the API server that is waited for
            await asyncio.sleep(0.05)
        served = [await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", one.port)) for one in replicas]
        for task in tasks:
            task.cancel()
    secret = await client.get(ObjectKey(SECRET, namespace, "dtesn-webhook"))
    assert secret is not None
    assert {b64decode(secret["data"]["tls.crt"]).decode()} == set(served)
