"""The live page in real Chromium while a server is not well: requests that wait, and batches that fail."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import aiohttp
import pytest
from playwright.async_api import Browser, expect
from tests.integration import misbehaving_server
from tests.integration.chromium import opened
from tests.integration.http_client import PROCESS
from tests.integration.http_server import LONG, Server, running
from tests.integration.page_browser import live, post, shot

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the browser

# Nothing is computed before that many wait, or for as long as a window may be: ten seconds.
WAITING = {
    "DTESN_BATCHING_STRATEGY": "fixed",
    "DTESN_BATCHING_ENABLE_ADAPTIVE_SIZING": "false",
    "DTESN_BATCHING_TARGET_BATCH_SIZE": "32",
    "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "10000",
}
FRAIL = {"DTESN_BATCHING_FAILURE_THRESHOLD": "1", "DTESN_BATCHING_CIRCUIT_BREAKER_TIMEOUT_SECONDS": "300"}


async def keep_asking(server: Server, priority: int) -> None:
    body = {"input_data": "patience", "priority": priority, "timeout": LONG}
    async with aiohttp.ClientSession(server.url) as http:
        while True:
            async with http.post(PROCESS, json=body) as answer:
                await answer.read()


async def test_waiting_requests_are_shown_by_priority_and_in_a_sentence(browser: Browser) -> None:
    with running(WAITING) as server:
        asking = [asyncio.create_task(keep_asking(server, priority)) for priority in (0, 0, 0, 1, 2, 2)]
        async with opened(browser, server.url) as watched:
            page = watched.page
            await live(page)
            await expect(page.locator("#priorities li")).to_have_text(
                [re.compile(r"^Priority 0, highest\s*3$"), re.compile(r"^Priority 1\s*1$"), re.compile(r"^Priority 2, lowest\s*2$")]
            )
            await expect(page.locator("#summary")).to_contain_text("6 requests wait.")
            await expect(page.locator('[data-figure="manager.oldest_seconds"]')).to_have_text(re.compile(r"^[\d.]+ (ms|s)$"))
            await expect(page.locator('[data-figure="metrics.server_load.active_requests"]')).to_have_text("6")
            await shot(page, "waiting")
            for task in asking:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await expect(page.locator("#summary")).to_contain_text("Nothing waits.")
            await expect(page.locator("#outcomes")).to_contain_text("Client left")
            watched.check()


async def test_an_open_breaker_says_what_it_does_and_when_it_probes(browser: Browser) -> None:
    with running(FRAIL, command=misbehaving_server.COMMAND, clean=False) as server:
        async with opened(browser, server.url, color_scheme="dark") as watched:
            page = watched.page
            await live(page)
            assert await post(server, {"input_data": "broken"}) == [500]
            await expect(page.locator("#breaker-rule")).to_have_text("1 failed batch")
            await expect(page.locator("#breaker-words")).to_have_text("Open")
            await expect(page.locator("#breaker-meaning")).to_have_text(re.compile(r"requests run one by one\. The next probe is in \d+"))
            assert await post(server, {"input_data": "one"}, {"input_data": "another"}) == [200, 200]
            await expect(page.locator("#closed")).to_contain_text("Run alone, breaker open")
            await expect(page.locator("#outcomes")).to_contain_text("Failed in compute (500)")
            await shot(page, "breaker-open-dark")
            watched.check()
