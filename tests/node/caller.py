"""Sends requests from a pod of the cluster until its input ends, and prints what came back as one JSON object.

Sent into a pod as source (`python -c`), so it imports nothing of the tests. Its first line of input is the plan:
{"url", "rate", "at_once", "retries", "texts": [[text, [numbers of its summary]], ...], "tolerance", "timeout"}. With a `rate`, requests
begin when their time has come, whether or not earlier ones were answered, and some together, so that there is something to batch.
Without one so many are always under way, each followed by the next: as many as the pods can answer. The clients keep their connections,
and one group in four comes over a new one, as from a client that has just begun: so every pod behind a Service gets some.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from dtesn_api.wire import ProcessResponse
from dtesn_sidecar.client import ClientError, DTESNClient, RetryPolicy

CLIENTS = 16
TOGETHER = 8


class Caller:
    """Counts of one run."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.sent = self.right = self.batched = 0
        self.wrong: list[str] = []
        self.failed: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []
        self.seconds: list[float] = []
        self.began = time.monotonic()

    async def run(self) -> None:
        """Send until the input ends, then wait for what is under way."""
        ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._client()) for _ in range(CLIENTS)]
            group = await stack.enter_async_context(asyncio.TaskGroup())
            if self.plan["rate"] is None:
                for number in range(self.plan["at_once"]):
                    group.create_task(self._on_and_on(clients[number % CLIENTS], ended))
                return
            for number in itertools.count():
                if ended.done():
                    break
                group.create_task(self._some(None if number % 4 == 3 else clients[number % CLIENTS], self.sent))
                self.sent += TOGETHER
                due = self.began + self.sent / self.plan["rate"]
                await asyncio.wait({ended}, timeout=max(0.0, due - time.monotonic()))

    def _client(self) -> DTESNClient:
        policy = RetryPolicy() if self.plan["retries"] else RetryPolicy(attempts=1)
        return DTESNClient(self.plan["url"], timeout=self.plan["timeout"], retries=policy)

    async def _some(self, client: DTESNClient | None, first: int) -> None:
        async with AsyncExitStack() as stack:
            by = client or await stack.enter_async_context(self._client())
            await asyncio.gather(*(self._one(by, first + number) for number in range(TOGETHER)))

    async def _on_and_on(self, client: DTESNClient, ended: asyncio.Future[str]) -> None:
        while not ended.done():
            self.sent += 1
            await self._one(client, self.sent)

    async def _one(self, client: DTESNClient, number: int) -> None:
        text, expected = self.plan["texts"][number % len(self.plan["texts"])]
        began = time.monotonic()
        try:
            answer = await client.process(text)
        except ClientError as error:
            self.failed[type(error).__name__] += 1
            self.failures.append((round(time.monotonic() - self.began, 3), f"{type(error).__name__}: {error}"))
            return
        self.seconds.append(time.monotonic() - began)
        self.batched += answer.result.engine_integration.batch_processed
        found = numbers(answer)
        if len(found) == len(expected) and all(map(self._near, found, expected)):
            self.right += 1
        else:
            self.wrong.append(text)

    def _near(self, one: float, other: float) -> bool:
        return math.isclose(one, other, rel_tol=0.0, abs_tol=self.plan["tolerance"])

    def said(self) -> dict[str, Any]:
        """The counts."""
        ordered = sorted(self.seconds) or [math.nan]
        return {
            "sent": self.sent,
            "right": self.right,
            "batched": self.batched,
            "wrong": self.wrong[:5],
            "failed": dict(self.failed),
            "failures": self.failures[:20],
            "seconds": round(time.monotonic() - self.began, 3),
            "median_ms": round(1e3 * ordered[len(ordered) // 2], 1),
            "longest_ms": round(1e3 * ordered[-1], 1),
        }


def numbers(answer: ProcessResponse) -> list[float]:
    """Norm and mean of each state of a summary, layer by layer."""
    layers = answer.result.processed_output.summary
    assert isinstance(layers, list)
    return [number for layer in layers for state in (layer.root, layer.mean) for number in (state.norm, state.mean)]


def main() -> None:
    """Run a plan."""
    caller = Caller(json.loads(sys.stdin.readline()))
    print("began", flush=True)
    asyncio.run(caller.run())
    print(json.dumps(caller.said()), flush=True)


if __name__ == "__main__":
    main()
