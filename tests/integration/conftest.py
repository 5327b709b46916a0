"""What tests of several files share here: a browser for the tests of a file, which run in one loop for that."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser
from tests.integration.chromium import chromium


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """A browser; each test opens pages in contexts of its own."""
    async with chromium() as browser:
        yield browser
