"""The live page open in a browser: what its tests look at and do."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
from playwright.async_api import Page, expect
from tests.integration.chromium import ARTEFACTS, PATIENCE_MS
from tests.integration.http_server import LONG, Server

PROCESS = "/dtesn/process_with_batching"
expect.set_options(timeout=PATIENCE_MS)


async def shot(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    await page.screenshot(path=ARTEFACTS / f"page-{name}.png", full_page=True)


async def live(page: Page) -> None:
    """Until figures are shown."""
    await expect(page.locator("#link-words")).to_contain_text("Live")
    await expect(page.locator('[data-figure="metrics.metrics.requests_processed"]')).to_have_attribute("value", re.compile(r"^\d+$"))


async def figure(page: Page, path: str) -> float | None:
    """The value behind a figure on the page; None: it says that there is none."""
    value = await page.locator(f'[data-figure="{path}"]').first.get_attribute("value")
    return float(value) if value else None


async def batch_metrics(server: Server) -> dict[str, Any]:
    async with aiohttp.ClientSession(server.url) as http, http.get("/dtesn/batch_metrics") as answer:
        return await answer.json()


async def post(server: Server, *bodies: dict[str, Any]) -> list[int]:
    async with aiohttp.ClientSession(server.url) as http:

        async def one(body: dict[str, Any]) -> int:
            async with http.post(PROCESS, json={"timeout": LONG, **body}) as answer:
                await answer.read()
                return answer.status

        return await asyncio.gather(*map(one, bodies))
