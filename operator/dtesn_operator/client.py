"""Calls of the Kubernetes API with plain dicts. The only file that imports the Kubernetes client.

`kubernetes.aio` brings configuration, credentials and connections. Its typed models refuse answers that real servers give
(Lease creation, Events without a time), so bodies go in and out as JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config
from yarl import URL

from dtesn_api import names
from dtesn_operator.errors import ApiFailed, ApiUnreachable, LeadershipLost, NotConfigured
from dtesn_operator.kinds import Kind, Manifest, ObjectKey

TIMEOUT: Final = 30.0
PAGE: Final = 500
_METADATA: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"


class _Named(msgspec.Struct):
    name: str
    uid: str
    namespace: str = ""


class _Item(msgspec.Struct):
    metadata: _Named


class _Continued(msgspec.Struct, rename={"following": "continue"}):
    following: str = ""


class _Page(msgspec.Struct):
    metadata: _Continued
    items: list[_Item] | None = None


class Client:
    """Calls on one API server. Every method raises `ApiFailed` for an answer that is an error and `ApiUnreachable` for none."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._allowed: Callable[[], bool] = lambda: True

    def guarded(self, allowed: Callable[[], bool]) -> Client:
        """The same, but for writes, which raise `LeadershipLost` where `allowed()` is false."""
        other = Client(self._api)
        other._allowed = allowed
        return other

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object, or None where there is none."""
        try:
            found: Manifest = await self.call("GET", path_of(key.kind, key.namespace, key.name))
            return found
        except ApiFailed as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> AsyncIterator[Manifest]:
        """All objects of a kind, page by page; of every namespace where none is given. `labels` and `fields` are selectors."""
        query = _chosen(labels, fields)
        while True:
            page = await self.call("GET", path_of(kind, namespace), query=query)
            for item in page["items"] or ():  # an empty list may be null
                yield {**item, "apiVersion": kind.api_version, "kind": kind.kind}
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def uids(self, kind: Kind, namespace: str | None = None, *, labels: str = "") -> AsyncIterator[tuple[ObjectKey, str]]:
        """Key and UID of all objects of a kind, as in `list`; nothing else of them is sent, and little of that is read."""
        query = _chosen(labels)
        while True:
            page = await self.call("GET", path_of(kind, namespace), query=query, headers={"Accept": _METADATA}, shape=_Page)
            for item in page.items or ():
                yield ObjectKey(kind, item.metadata.namespace, item.metadata.name), item.metadata.uid
            if not page.metadata.following:
                return
            query["continue"] = page.metadata.following

    async def create(self, manifest: Manifest, kind: Kind, *, dry_run: bool = False) -> Manifest:
        """POST it as our own, unknown fields refused."""
        query = {"fieldManager": names.FIELD_MANAGER, "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        made: Manifest = await self.call("POST", path_of(kind, manifest["metadata"].get("namespace")), manifest, query=query)
        return made

    async def apply(self, manifest: Manifest, kind: Kind) -> Manifest:
        """Server-side apply. With `metadata.uid` in it, an object that was replaced meanwhile is refused (409), not rewritten."""
        metadata = manifest["metadata"]
        applied: Manifest = await self.call(
            "PATCH",
            path_of(kind, metadata["namespace"], metadata["name"]),
            manifest,
            query={"fieldManager": names.FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"},
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        return applied

    async def merge(self, key: ObjectKey, patch: Manifest, *, subresource: str = "") -> Manifest:
        """A JSON merge patch (RFC 7386)."""
        path = path_of(key.kind, key.namespace, key.name) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": names.FIELD_MANAGER}
        merged: Manifest = await self.call("PATCH", path, patch, query=query, headers={"Content-Type": "application/merge-patch+json"})
        return merged

    async def patch(self, key: ObjectKey, operations: Sequence[Manifest]) -> Manifest:
        """A JSON patch (RFC 6902)."""
        path = path_of(key.kind, key.namespace, key.name)
        query = {"fieldManager": names.FIELD_MANAGER}
        patched: Manifest = await self.call(
            "PATCH", path, [*operations], query=query, headers={"Content-Type": "application/json-patch+json"}
        )
        return patched

    async def replace(self, manifest: Manifest, kind: Kind) -> Manifest:
        """PUT it; refused (409) where its resourceVersion is not the latest."""
        metadata = manifest["metadata"]
        replaced: Manifest = await self.call("PUT", path_of(kind, metadata.get("namespace"), metadata["name"]), manifest)
        return replaced

    async def delete(self, key: ObjectKey, uid: str) -> None:
        """Delete this very object; one of the same name with another UID is left (409)."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self.call("DELETE", path_of(key.kind, key.namespace, key.name), body)

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server has this kind now."""
        try:
            found = await self.call("GET", f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}")
        except ApiFailed as error:
            if error.status == 404:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in found["resources"])

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = TIMEOUT,
        shape: Any = Any,
    ) -> Any:
        """One request and its answer, decoded as `shape`, within so many seconds in all."""
        if method != "GET" and not self._allowed():
            raise LeadershipLost(f"{method} {path}: another replica may lead by now")
        try:
            async with asyncio.timeout(seconds):
                _, url, ready, _, _ = await self._api.param_serialize(
                    method, path, query_params=list((query or {}).items()), header_params=dict(headers or {}), auth_settings=["BearerToken"]
                )
                answer = await self._api.call_api(method, url, ready, body, _request_timeout=seconds)
                data: bytes = await answer.response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiUnreachable(f"{method} {path}: {type(error).__name__} {error}") from error
        if answer.status >= 400:
            raise _failed(method, path, answer.status, data, answer.headers.get(names.HEADER_RETRY_AFTER))
        try:
            return msgspec.json.decode(data, type=shape)
        except msgspec.DecodeError as error:
            raise ApiUnreachable(f"{method} {path}: the answer is no JSON ({error})") from error


def path_of(kind: Kind, namespace: str | None = None, name: str | None = None) -> str:
    """The path of a collection or an object."""
    parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
    parts += ["namespaces", namespace] if namespace else []
    return URL.build(path="/" + "/".join([*parts, kind.plural, *([name] if name else [])])).raw_path


def _chosen(labels: str = "", fields: str = "") -> dict[str, str]:
    """The query of a listing."""
    selectors = {"labelSelector": labels, "fieldSelector": fields}
    return {"limit": str(PAGE), **{name: value for name, value in selectors.items() if value}}


def _failed(method: str, path: str, status: int, data: bytes, after: str | None) -> ApiFailed:
    try:
        said = msgspec.json.decode(data)
        reason, message = str(said.get("reason", "")), str(said.get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        reason, message = "", data[:500].decode(errors="replace")
    seconds = float(after) if after is not None and after.isdecimal() else None
    return ApiFailed(f"{method} {path}: {message}", status=status, reason=reason, said=message, after=seconds)


@asynccontextmanager
async def connected(kubeconfig: Path | None = None, context: str | None = None) -> AsyncIterator[Client]:
    """A client with the pod's own credentials, or with those of a kubeconfig. Raises `NotConfigured` where there is neither."""
    configuration = Configuration()
    try:
        if kubeconfig is None and context is None:
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException:
                await load_kube_config(client_configuration=configuration)
        else:
            await load_kube_config(config_file=_text(kubeconfig), context=context, client_configuration=configuration)
    except _UNREADABLE as error:
        raise _no_way(error) from error
    configuration.connection_pool_maxsize = 64
    async with ApiClient(configuration) as api:
        api.user_agent = names.FIELD_MANAGER
        yield Client(api)


def context_namespace(kubeconfig: Path | None = None, context: str | None = None) -> str | None:
    """The namespace that a context of the kubeconfig names, if it does. Raises `NotConfigured` where there is no such context."""
    try:
        contexts, current = list_kube_config_contexts(_text(kubeconfig))
    except _UNREADABLE as error:
        if kubeconfig is None and context is None:
            return None  # there may be another way: that of a pod
        raise _no_way(error) from error
    chosen = current if context is None else next((one for one in contexts if one["name"] == context), None)
    if chosen is None:
        raise NotConfigured(f"there is no context {context} in the kubeconfig, only {', '.join(one['name'] for one in contexts)}")
    namespace = chosen["context"].get("namespace")
    return str(namespace) if namespace else None


_UNREADABLE = (ConfigException, OSError, yaml.YAMLError, TypeError)  # TypeError: a file of another shape


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _no_way(error: Exception) -> NotConfigured:
    return NotConfigured(f"no way to the API server: {error}. Run it in a pod, or give --kubeconfig FILE or KUBECONFIG")
