"""The live page in real Chromium: what it shows is what the server says, and its form asks the server."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from playwright.async_api import Browser, expect
from tests.integration.chromium import opened
from tests.integration.http_server import Server, running
from tests.integration.page_browser import PROCESS, batch_metrics, figure, live, post, shot
from tests.unit.pages.page_support import body

from dtesn_api.wire import LatencyFigures, LiveEvent, ProviderLoad, RecentFigures

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the browser


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


async def test_the_figures_are_those_of_batch_metrics_and_follow_without_a_reload(server: Server, browser: Browser) -> None:
    async with opened(browser, server.url) as watched:
        page = watched.page
        await live(page)
        before = await figure(page, "metrics.metrics.requests_processed")
        await page.evaluate("window.untouched = true")
        texts = [{"input_data": "x" * (10 + i), "priority": i % 3} for i in range(40)]
        assert await post(server, *texts, {"input_data": "alone", "enable_batching": False}) == [200] * 41
        said = await batch_metrics(server)
        assert said["metrics"]["requests_processed"] == before + 41
        processed = page.locator('[data-figure="metrics.metrics.requests_processed"]')
        await expect(processed).to_have_attribute("value", str(said["metrics"]["requests_processed"]))
        for name in ("avg_batch_size", "throughput_improvement", "batch_utilization", "success_rate", "avg_processing_time_ms"):
            assert await figure(page, f"metrics.metrics.{name}") == said["metrics"][name], name
        assert await figure(page, "metrics.metrics.avg_batch_wait_time") == said["metrics"]["avg_batch_wait_time"]
        await expect(page.locator("#outcomes")).to_contain_text("Answered")
        await expect(page.locator("#closed")).to_contain_text("Run alone, as asked")
        await expect(page.locator("#breaker-words")).to_have_text("Closed")
        await expect(page.locator("#summary")).to_contain_text("Nothing waits.")
        for source in ("queue", "system"):
            await expect(page.locator("#sources tr", has_text=source)).to_have_count(1)
        await expect(page.locator('[data-chart="throughput"] path.line')).not_to_have_count(0)
        assert await page.evaluate("window.untouched") is True
        await shot(page, "after-requests-light")
        watched.check()


async def test_what_is_not_measured_says_so_and_is_not_0(browser: Browser) -> None:
    # Without calibration and load there is no baseline, no average and no load.
    with running({"DTESN_LOAD_QUEUE_WEIGHT": "0", "DTESN_LOAD_SYSTEM_WEIGHT": "0"}) as server:
        async with opened(browser, server.url) as watched:
            page = watched.page
            await live(page)
            await expect(page.locator("#summary")).to_contain_text("Idle")
            for path, words in (
                ("metrics.metrics.avg_batch_size", "not measured yet"),
                ("metrics.metrics.throughput_improvement", "not measured yet"),
                ("metrics.metrics.requests_per_second", "not measured yet"),
                ("recent.total.p95_ms", "no requests in the last minute"),
                ("point.batch_size", "no batch in the last 10 s"),
                ("point.load", "no data"),
            ):
                await expect(page.locator(f'[data-figure="{path}"]').first).to_have_text(words)
            await expect(page.locator('[data-figure="point.answered_per_second"]')).to_have_text("0")  # this one is measured
            await expect(page.locator("#closed-none")).to_be_visible()
            await expect(page.locator("#sources-none")).to_be_visible()
            await shot(page, "no-data")
            watched.check()


LINES = """() => [...document.querySelectorAll("#sources th")].map((head) => {
  const range = document.createRange();
  range.selectNodeContents(head);
  return [head.textContent, new Set([...range.getClientRects()].map((box) => box.top)).size];
})"""


async def test_a_source_without_data_says_why_and_leaves_the_names_in_one_line(browser: Browser) -> None:
    with running({"DTESN_LOAD_ENGINE_URL": "http://127.0.0.1:9", "DTESN_LOAD_NVML_WEIGHT": "1"}) as server:
        for width in (360, 1440):
            async with opened(browser, server.url, viewport={"width": width, "height": 800}) as watched:
                page = watched.page
                await live(page)
                engine = page.locator("#sources tr", has_text="engine").locator("td:visible")
                await expect(engine).to_have_text(
                    [re.compile("^no data: /load: no connection to 127.0.0.1:9: Connection refused; /metrics: no")]
                )
                system = page.locator("#sources tr", has_text="system").locator("td:visible")
                await expect(system).to_have_text([re.compile(r"^\d+ %$"), re.compile(r"^[\d.]+ m?s$"), "1"])
                assert await page.evaluate(LINES) == [[name, 1] for name in ("queue", "system", "nvml", "engine")]
                watched.check()


async def test_a_chart_has_its_figures_in_words_and_as_a_table(server: Server, browser: Browser) -> None:
    assert await post(server, *[{"input_data": "some words"}] * 8) == [200] * 8
    async with opened(browser, server.url) as watched:
        page = watched.page
        await live(page)
        chart = page.locator('[data-chart="latency"]')
        await expect(chart.get_by_role("img")).to_have_accessible_name(
            re.compile(r"Latency over the last five minutes\. 50th: from [\d.]+ to")
        )
        await chart.get_by_text("Latency as a table").click()
        await expect(chart.locator("tbody tr").first).to_contain_text("now")
        latest = await figure(page, "recent.total.p95_ms")
        assert latest is not None
        # What the pointer is over is shown for the same moment in every chart.
        await page.locator('[data-chart="throughput"] > svg').hover()
        await expect(page.locator('[data-chart="size"] .when')).not_to_be_empty()
        await page.locator("h1").hover()
        await expect(page.locator('[data-chart="size"] .when')).to_be_empty()
        watched.check()


async def test_the_form_shows_the_answer_and_where_its_time_went(server: Server, browser: Browser) -> None:
    async with opened(browser, server.url) as watched:
        page = watched.page
        await page.get_by_label("Text").fill("a text of my own")
        await page.get_by_label("Depth").fill("3")
        await page.get_by_label("Priority", exact=True).select_option("0")
        await page.get_by_label("Batch it with others").uncheck()
        await expect(page.locator("#curl")).to_contain_text('"membrane_depth":3')
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer-words")).to_have_text(re.compile(r"^Answered in [\d.]+ ms\.$"))
        facts = page.locator("#answer-facts")
        await expect(facts).to_contain_text("depth 3, size 64")
        await expect(facts).to_contain_text("16 nodes, height 15")
        await expect(facts).to_contain_text("Run alone, as asked")
        await expect(facts).to_contain_text("Layer 3, norm")
        await expect(page.locator("#timing")).to_contain_text("Computing")
        await page.get_by_text("The answer as JSON").click()
        await expect(page.locator("#answer-json")).to_contain_text('"batch_manager_active": true')
        await shot(page, "answer")
        watched.check()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the Debian package curl")
async def test_the_curl_command_beside_the_form_sends_the_same_whatever_the_text_is(server: Server, browser: Browser) -> None:
    text = 'it\'s "quoted" \\ $HOME `id` \u00e9'
    async with opened(browser, server.url) as watched:
        page = watched.page
        await page.get_by_label("Text").fill(text)
        await page.get_by_label("Depth").fill("1")
        command = await page.locator("#curl").text_content()
        assert command is not None
        done = await asyncio.to_thread(subprocess.run, ["bash", "-c", command], capture_output=True, text=True, check=True)
        output = json.loads(done.stdout)["result"]["processed_output"]
        assert (output["nodes"], output["model"]["membrane_depth"]) == (len(text.encode()), 1)
        watched.check()


async def test_the_form_says_at_the_field_what_the_server_does_not_take(server: Server, browser: Browser) -> None:
    async with opened(browser, server.url) as watched:
        page = watched.page
        depth, size = page.get_by_role("textbox", name="Depth"), page.get_by_role("textbox", name="Size")
        await depth.fill("99")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer-words")).to_contain_text(f"422 {HTTPStatus(422).phrase}")  # Python 3.13 has another one
        await expect(depth).to_have_attribute("aria-invalid", "true")
        await expect(depth).to_be_focused()
        await expect(depth).to_have_accessible_description("membrane_depth is 99, but must be an integer from 1 to 16")
        await shot(page, "answer-422")
        await depth.fill("")
        await size.fill("many")
        await page.keyboard.press("Enter")
        await expect(size).to_have_attribute("aria-invalid", "true")
        await expect(depth).not_to_have_attribute("aria-invalid", "true")
        await size.fill("")
        await page.get_by_label("Text").fill("")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer-words")).to_contain_text("422")
        await expect(page.get_by_label("Text")).to_have_attribute("aria-invalid", "true")
        watched.check(but=("422",))


HTML = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def hostile_event() -> bytes:
    """An event whose every word is HTML."""
    nothing = LatencyFigures(p50_ms=None, p95_ms=None, p99_ms=None)
    event = LiveEvent(
        server=HTML,
        phase="serving",
        reasons=[HTML],
        inside=0,
        metrics=msgspec.structs.replace(body(), server_load={"active_requests": 0, HTML: ProviderLoad(value=None, reason=HTML)}),
        manager=None,
        recent=RecentFigures(seconds=60, requests={HTML: 1}, closed_by={HTML: 3}, total=nothing, queue=nothing, compute=nothing),
        points=[],
    )
    return b"id: 1\ndata: " + msgspec.json.encode(event) + b"\n\n"


async def test_html_in_names_and_reasons_is_shown_as_text(server: Server, browser: Browser) -> None:
    async with opened(browser, server.url) as watched:
        page = watched.page
        await live(page)

        async def hostile(route: Any) -> None:
            answer = await route.fetch()
            config = await answer.json()
            config["spec"]["model"]["name"] = HTML
            config["reload_errors"] = [{"field": HTML, "value": HTML, "expected": HTML, "message": HTML}]
            await route.fulfill(json=config)

        await page.route("**/config", hostile)
        await page.route("**/events", lambda route: route.fulfill(body=hostile_event(), content_type="text/event-stream"))
        await page.route(f"**{PROCESS}", lambda route: route.fulfill(status=503, json={"status": 503, "title": HTML, "detail": HTML}))
        await page.reload()
        await expect(page.locator("#sources")).to_contain_text(HTML)
        await expect(page.locator("#about")).to_contain_text(HTML)
        await expect(page.locator("#config-words")).to_contain_text(HTML)
        await expect(page.locator("#reasons-words")).to_contain_text(HTML)
        await expect(page.locator("#closed")).to_contain_text(HTML)
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer-words")).to_contain_text(HTML)
        await shot(page, "hostile")
        assert await page.locator("main img, main script").count() == 0
        assert await page.title() != "owned"
        watched.check(but=("503",))
