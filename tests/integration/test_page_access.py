"""The live page in real Chromium is for everyone: keyboard, names, contrast, both schemes, phone to wide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from playwright.async_api import Browser, expect
from tests.integration.chromium import ARTEFACTS, opened
from tests.integration.http_server import Server, running
from tests.integration.page_browser import live, shot

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the browser


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


FOCUS = """() => {
  const here = document.activeElement, style = getComputedStyle(here);
  const seen = here.matches(":focus-visible") && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [here === document.body ? "" : here.id || here.textContent.trim(), seen];
}"""
SPOKEN = "[...document.querySelectorAll('[aria-live], [role=status], [role=alert], [role=log]')].map(each => each.id)"
CONTRAST = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const each of document.querySelectorAll("body *")) {
    const said = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!said || each.closest("svg, noscript, .skip") || !each.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(each).color)), light(behind(each))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${each.tagName} ${each.id || each.className} ${each.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


async def test_everything_can_be_reached_and_used_by_keyboard(server: Server, browser: Browser) -> None:
    async with opened(browser, server.url) as watched:
        page = watched.page
        await live(page)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the figures")).to_be_focused()
        await expect(page.get_by_role("link", name="Skip to the figures")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()
        walked: list[str] = []
        while True:
            await page.keyboard.press("Tab")
            here = await page.evaluate(FOCUS)
            if here[0] in walked or here[0] == "" or len(walked) > 60:
                break
            walked.append(here[0])
            assert here[1], f"the focus on {here[0]} cannot be seen"
            if here[0] == "send":
                await page.keyboard.press("Enter")
                await expect(page.locator("#answer-words")).to_have_text(re.compile(r"^Answered in"))
        for name in ("Throughput as a table", "input_data", "membrane_depth", "esn_size", "priority", "enable_batching", "send", "readyz"):
            assert name in walked, walked
        assert walked.index("input_data") < walked.index("membrane_depth") < walked.index("send") < walked.index("readyz")
        watched.check()


async def test_every_control_and_region_has_a_name(server: Server, browser: Browser) -> None:
    async with opened(browser, server.url) as watched:
        page = watched.page
        await live(page)
        tree = await page.locator("body").aria_snapshot()
        ARTEFACTS.mkdir(exist_ok=True)
        (ARTEFACTS / "page-accessibility.yaml").write_text(tree)
        named = r'\s*- (button|link|textbox|combobox|checkbox|region|navigation|img|article)(?! ")'
        assert [line for line in tree.splitlines() if re.match(named, line)] == []
        for landmark in ("banner", "main", "contentinfo", 'navigation "This server\'s other pages"'):
            assert re.search(rf"^\s*- {landmark}", tree, re.MULTILINE), landmark
        for name in (
            'textbox "Text"',
            'textbox "Depth 1 to 16"',
            'combobox "Priority"',
            'checkbox "Batch it with others" [checked]',
            'button "Send"',
        ):
            assert name in tree
        levels = [int(level) for level in re.findall(r"heading .* \[level=(\d)\]", tree)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        # Of what changes each second nothing is announced: only the state of the connection and the form's answer are.
        spoken = await page.evaluate(SPOKEN)
        assert spoken == ["link-words", "answer-words"]
        watched.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
async def test_light_and_dark_and_from_phone_to_wide_it_fits_and_can_be_read(
    server: Server, browser: Browser, scheme: Any, width: int
) -> None:
    async with opened(
        browser, server.url, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    ) as watched:
        page = watched.page
        await live(page)
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(re.findall(r"\d+", ground)[0])
        assert red > 200 if scheme == "light" else red < 60
        for details in await page.locator("summary:visible").all():
            await details.click()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate(CONTRAST) == []
        running = "document.getAnimations().filter(a => a.playState === 'running').length"
        assert await page.evaluate(running) == 0
        await shot(page, f"{scheme}-{width}")
        watched.check()
