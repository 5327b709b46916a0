"""What a kubelet and Prometheus's discovery do for the pods of a resource: a real sidecar behind each, all of them scraped."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import yaml
from tests.cluster.batchers import Cluster
from tests.integration.http_server import running
from tests.integration.prometheus_server import Prometheus

from dtesn_api import names

BODY = {"input_data": "a short text", "output": "summary"}


class Sidecars:
    """A sidecar for each pod that is Ready. Prometheus finds them by `targets`."""

    def __init__(self, cluster: Cluster, folder: Path, name: str = "demo") -> None:
        self._cluster, self._folder, self._name = cluster, folder, name
        self._running: dict[str, tuple[str, ExitStack]] = {}
        self.targets = folder / "sidecars.json"
        self.targets.write_text("[]")

    @classmethod
    @contextmanager
    def behind(cls, cluster: Cluster, folder: Path) -> Iterator[Sidecars]:
        """For the block."""
        found = cls(cluster, folder)
        try:
            yield found
        finally:
            for _, stack in found._running.values():
                stack.close()

    @property
    def urls(self) -> list[str]:
        """Where those are that run."""
        return [url for url, _ in self._running.values()]

    def follow(self) -> None:
        """Start a sidecar for each pod that has none, and end those whose pods are gone."""
        pods = self._pods()
        for pod in [pod for pod in self._running if pod not in pods]:
            self._running.pop(pod)[1].close()
        for pod in [pod for pod in pods if pod not in self._running]:
            stack = ExitStack()
            server = stack.enter_context(running({}, "--config", str(self._config(pod))))
            self._running[pod] = server.url, stack
        found = [
            {"targets": [url.removeprefix("http://")], "labels": {"namespace": self._cluster.namespace, "pod": pod}}
            for pod, (url, _) in self._running.items()
        ]
        part = self.targets.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(self.targets)

    def _pods(self) -> list[str]:
        alive = [pod["metadata"] for pod in self._cluster.get("pods")["items"] if pod["status"].get("phase") == "Running"]
        return [pod["name"] for pod in alive if pod["labels"].get(names.LABEL_INSTANCE) == self._name and "deletionTimestamp" not in pod]

    def _config(self, pod: str) -> Path:
        file = self._folder / pod / names.CONFIG_FILE
        file.parent.mkdir(exist_ok=True)
        file.write_text(self._cluster.get(f"configmap/{self._name}")["data"][names.CONFIG_FILE])
        return file


@contextmanager
def prometheus(folder: Path, sidecars: Path, port: int) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the sidecars of a file of targets, with their namespaces and pods, and one exporter."""
    folder.mkdir()
    jobs = [
        {"job_name": "sidecars", "file_sd_configs": [{"files": [str(sidecars)]}]},
        {"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
    ]
    scrape = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape))
    server = Prometheus(folder, ["--config.file=prometheus.yml", "--storage.tsdb.path=data"], "http")
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()


@contextmanager
def callers(sidecars: Sidecars, number: int) -> Iterator[None]:
    """So many clients for the block, each with one request after the other in flight, taking turns among the sidecars."""
    turns = itertools.count()

    async def call(http: aiohttp.ClientSession) -> None:
        while True:
            urls = sidecars.urls
            try:
                async with http.post(f"{urls[next(turns) % len(urls)]}/dtesn/process_with_batching", json=BODY) as answer:
                    await answer.read()
            except (aiohttp.ClientError, ZeroDivisionError):  # of a sidecar that ended, or that is not there yet
                await asyncio.sleep(0.1)

    async def calling(ended: asyncio.Event) -> None:
        async with aiohttp.ClientSession() as http:
            tasks = [asyncio.ensure_future(call(http)) for _ in range(number)]
            await ended.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(calling(ended)), name="callers")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
