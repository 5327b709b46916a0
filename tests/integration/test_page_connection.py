"""The live page in real Chromium, when its server goes and comes back, and while nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from playwright.async_api import Browser, expect
from tests.integration.chromium import opened
from tests.integration.http_server import running
from tests.integration.page_browser import live, shot

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the browser

SEEN = """value => {
  Object.defineProperty(document, "visibilityState", {value, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""


class Relay:
    """An address that stays while servers come and go behind it."""

    def __init__(self) -> None:
        self.port = 0  # of the server behind it; 0: there is none, and connections end at once

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its URL."""
        async with await asyncio.start_server(self._relay, "127.0.0.1", 0) as listener:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind, ahead = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._copy(reader, ahead), self._copy(behind, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_a_server_that_goes_away_and_comes_back_is_told_of_and_followed_again(browser: Browser) -> None:
    relay = Relay()
    async with relay.listening() as url:
        with running() as server:
            relay.port = server.port
            async with opened(browser, url) as watched:
                page = watched.page
                await live(page)
                server.terminate()
                assert await asyncio.to_thread(server.end) == 0
                relay.port = 0
                await expect(page.locator("#link-words")).to_have_text("Connection lost")
                await expect(page.locator("#phase-words")).to_have_text("State not known")
                await expect(page.locator("#lost-words")).to_contain_text("The figures below are from")
                await expect(page.locator("#lost-words")).to_contain_text("Trying again")
                await expect(page.get_by_role("button", name="Try now")).to_be_visible()
                await shot(page, "connection-lost")
                with running() as again:
                    relay.port = again.port
                    await expect(page.locator("#link-words")).to_have_text("Live; the server was restarted")
                    await expect(page.locator("#lost")).to_be_hidden()
                    await expect(page.locator("#main")).not_to_have_class("stale")
                watched.check(but=("Failed to load resource",))


async def test_a_hidden_page_lets_go_of_its_stream_and_takes_it_up_again(browser: Browser) -> None:
    with running() as server:
        async with opened(browser, server.url) as watched:
            page = watched.page
            await page.clock.install()
            await page.reload()
            await live(page)
            await page.evaluate(SEEN, "hidden")
            await page.clock.run_for(11_000)
            await expect(page.locator("#link-words")).to_have_text("Paused while hidden")
            streams = sum(url.endswith("/events") for url in watched.requested)
            await page.evaluate(SEEN, "visible")
            await expect(page.locator("#link-words")).to_contain_text("Live")
            assert sum(url.endswith("/events") for url in watched.requested) == streams + 1
            watched.check(but=("ERR_ABORTED",))
