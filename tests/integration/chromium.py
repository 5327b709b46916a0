"""Debian's Chromium, headless, driven by Playwright: a page that may load nothing but what its own server has."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, Route, async_playwright

ARTEFACTS: Final = Path(__file__).resolve().parents[2] / "test-artefacts"
PATIENCE_MS: Final = 120_000
_ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser for the `async with` block."""
    executable = shutil.which("chromium")
    assert executable is not None, "there is no chromium; on Debian: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Watched:
    """A page, what its console said, and where it wanted to go."""

    page: Page
    origin: str
    console: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def check(self, *, but: tuple[str, ...] = ()) -> None:
        """Nothing went wrong and nothing went elsewhere. `but`: words of errors that the test itself brings about."""
        assert [line for line in self.console if not any(words in line for words in but)] == []
        assert self.foreign == []


@asynccontextmanager
async def opened(browser: Browser, origin: str, **options: Any) -> AsyncIterator[Watched]:
    """The page at `/` of a server, in a context of its own with Playwright's `options` (colour scheme, viewport ...)."""
    context = await browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    watched = Watched(page, origin)
    at_home = urlsplit(origin).netloc

    async def gate(route: Route) -> None:
        url = route.request.url
        watched.requested.append(url)
        if urlsplit(url).netloc == at_home:
            await route.continue_()
        else:
            watched.foreign.append(url)
            await route.abort()

    await context.route("**/*", gate)
    page.on("console", lambda message: watched.console.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: watched.console.append(str(error)))
    try:
        await page.goto(f"{origin}/", wait_until="domcontentloaded")
        yield watched
    finally:
        await context.close()
